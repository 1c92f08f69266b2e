//! What a request is about, and what another instance that sends it expects.

/// What a request is about. `model` is empty while `vmodel` is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub model: String,
    pub vmodel: Option<String>,
}

impl Subject {
    #[must_use]
    pub fn of_model(model: String) -> Self {
        Self { model, vmodel: None }
    }

    /// Of a vmodel of which it is not known yet what it stands for.
    #[must_use]
    pub fn of_vmodel(vmodel: String) -> Self {
        Self { model: String::new(), vmodel: Some(vmodel) }
    }

    /// As the client named it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.vmodel.as_deref().unwrap_or(&self.model)
    }
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
