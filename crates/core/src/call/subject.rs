//! What a request is about, and what another instance that sends it expects.

/// What a request is about. `model` is empty while `vmodel` is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub model: String,
    pub vmodel: Option<String>,
}

/// What the sender of a hop expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Hit,
    Load,
}

impl Hop {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Load => "load",
        }
    }

    /// # Errors
    /// Returns the text back if it is neither.
    pub fn parse(text: &str) -> Result<Self, &str> {
        match text {
            "hit" => Ok(Self::Hit),
            "load" => Ok(Self::Load),
            other => Err(other),
        }
    }
}
