//! What a vmodel stands for: one model, or several that share its calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderMap;

use crate::routing::trial::Trial;
use crate::wire::headers::MM_SPLIT_KEY;

/// Shares are in hundredths of the calls.
pub const WHOLE: u8 = 100;

/// The version of a vmodel that is its active model, and the one that it was moved to last.
const STABLE: &str = "stable";
const LATEST: &str = "latest";

/// That no copy of a wanted model is ready, the control plane hears so often.
const TOLD_EVERY_MS: u64 = 1_000;

/// When the control plane was told something last; 0: never.
#[derive(Debug, Default)]
struct Told(AtomicU64);

impl Told {
    /// Whether it should hear it again; `now_ms` is monotonic and above 0.
    fn is_due(&self, now_ms: u64) -> bool {
        let told_ms = self.0.load(Ordering::Relaxed);
        let is_due = told_ms == 0 || now_ms.saturating_sub(told_ms) >= TOLD_EVERY_MS;
        // Of calls at the same time one tells.
        is_due && self.0.compare_exchange(told_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A model that gets copies of a part of a vmodel's calls.
#[derive(Debug)]
pub struct Shadow {
    pub model: Arc<str>,
    /// Of a hundred calls, so many are copied.
    percent: u8,
    /// Whether its answers are compared with those that the callers got.
    pub compares: bool,
    told: Told,
}

impl Shadow {
    #[must_use]
    pub fn new(model: &str, percent: u8, compares: bool) -> Self {
        Self { model: model.into(), percent, compares, told: Told::default() }
    }

    /// Whether a call is copied; `draw` is below `WHOLE`.
    #[must_use]
    pub fn takes(&self, draw: u8) -> bool {
        draw < self.percent
    }

    /// Whether the control plane should hear now that no copy of the model is ready; `now_ms` is monotonic and above 0.
    pub fn is_to_be_told(&self, now_ms: u64) -> bool {
        self.told.is_due(now_ms)
    }
}

/// Whether a call is copied to the shadow of its vmodel.
#[derive(Default)]
pub enum Shadowed {
    /// It is not known yet whether the vmodel has one.
    Undecided,
    #[default]
    No,
    Yes(Arc<Shadow>),
}

/// The models of a vmodel.
#[derive(Debug)]
pub struct Naming {
    active: Arc<str>,
    /// Other models and their shares, which are no more than `WHOLE` together; the active model gets the rest.
    split: Box<[(Arc<str>, u8)]>,
    /// Where it moves; the active model, if it does not.
    target: Arc<str>,
    /// Names of models that a call can choose.
    labels: Box<[(Box<str>, Arc<str>)]>,
    /// Models that were active before and can still be chosen.
    kept: Box<[Arc<str>]>,
    /// Answers while the wanted model is cold or fails.
    fallback: Option<Arc<str>>,
    /// That it does.
    told: Told,
    /// Gets copies of a part of the calls.
    shadow: Option<Arc<Shadow>>,
    /// Counts how its models answer.
    trial: Option<Arc<Trial>>,
}

impl Naming {
    #[must_use]
    pub fn new(active: &str, split: &[(String, u8)]) -> Self {
        let active: Arc<str> = active.into();
        Self {
            target: Arc::clone(&active),
            active,
            split: split.iter().map(|(model, share)| (model.as_str().into(), *share)).collect(),
            labels: Box::default(),
            kept: Box::default(),
            fallback: None,
            told: Told::default(),
            shadow: None,
            trial: None,
        }
    }

    /// With a model that answers while the wanted one is cold or fails.
    #[must_use]
    pub fn with_fallback(mut self, fallback: Option<&str>) -> Self {
        self.fallback = fallback.map(Into::into);
        self
    }

    #[must_use]
    pub fn fallback(&self) -> Option<&Arc<str>> {
        self.fallback.as_ref()
    }

    /// Whether the control plane should hear now that the fallback answers; `now_ms` is monotonic and above 0.
    pub fn is_to_be_told(&self, now_ms: u64) -> bool {
        self.told.is_due(now_ms)
    }

    /// With a model that gets copies of a part of the calls.
    #[must_use]
    pub fn with_shadow(mut self, shadow: Option<Shadow>) -> Self {
        self.shadow = shadow.map(Arc::new);
        self
    }

    /// Counts how the models answer, under this id.
    #[must_use]
    pub fn with_trial(mut self, id: Option<u64>) -> Self {
        let models = std::iter::once(&self.active).chain(self.split.iter().map(|(model, _)| model));
        self.trial = id.map(|id| Arc::new(Trial::new(id, models.cloned())));
        self
    }

    #[must_use]
    pub fn trial(&self) -> Option<&Arc<Trial>> {
        self.trial.as_ref()
    }

    /// Goes on with what the one before it has counted, if it is to count the same.
    pub fn go_on(&mut self, before: &Self) {
        if let (Some(trial), Some(before)) = (&mut self.trial, &before.trial)
            && trial.is_same(before)
        {
            *trial = Arc::clone(before);
        }
    }

    #[must_use]
    pub fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }

    /// With what else a call can choose.
    #[must_use]
    pub fn with_versions(mut self, target: &str, labels: &[(String, String)], kept: &[String]) -> Self {
        if *target != *self.active {
            self.target = target.into();
        }
        self.labels = labels.iter().map(|(label, model)| (label.as_str().into(), model.as_str().into())).collect();
        self.kept = kept.iter().map(|model| model.as_str().into()).collect();
        self
    }

    /// The model that a call chooses: by a label, or by the id of a model of the vmodel.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Arc<str>> {
        if let Some((_, model)) = self.labels.iter().find(|(label, _)| **label == *name) {
            return Some(model);
        }
        match name {
            STABLE => Some(&self.active),
            LATEST => Some(&self.target),
            _ => {
                let others = self.split.iter().map(|(model, _)| model).chain(&self.kept);
                let labelled = self.labels.iter().map(|(_, model)| model);
                let mut all = [&self.active, &self.target].into_iter().chain(others).chain(labelled);
                all.find(|model| ***model == *name)
            }
        }
    }

    /// The model of a call; `draw`, below `WHOLE`, is asked only if there is a choice.
    pub fn model(&self, draw: impl FnOnce() -> u8) -> &Arc<str> {
        if self.split.is_empty() {
            return &self.active;
        }
        let draw = draw();
        let mut below = 0;
        for (model, share) in &self.split {
            below += share;
            if draw < below {
                return model;
            }
        }
        &self.active
    }
}

/// Draws for a call of a vmodel: by chance, or, for a client that sends a key, always the same for that key and at
/// every instance.
#[must_use]
pub fn draw(vmodel: &str, headers: &HeaderMap) -> u8 {
    let Some(key) = headers.get(MM_SPLIT_KEY) else { return fastrand::u8(..WHOLE) };
    // FNV-1a, spread by a multiplication: its low bits alone would be even for similar keys.
    let bytes = vmodel.bytes().chain([0]).chain(key.as_bytes().iter().copied());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let spread = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u8::try_from(spread % u64::from(WHOLE)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> Naming {
        Naming::new("a", &[("b".to_owned(), 10), ("c".to_owned(), 25)])
    }

    #[test]
    fn shares_are_kept_to_a_hundredth() {
        let naming = naming();
        let count = |model: &str| (0..WHOLE).filter(|draw| **naming.model(|| *draw) == *model).count();
        assert_eq!((count("a"), count("b"), count("c")), (65, 10, 25));
    }

    #[test]
    fn a_version_is_a_label_or_a_model_of_the_vmodel() {
        let plain = Naming::new("a", &[]);
        let version = |naming: &Naming, name: &str| naming.version(name).map(ToString::to_string);
        for (name, model) in [("stable", Some("a")), ("latest", Some("a")), ("a", Some("a")), ("b", None), ("", None)] {
            assert_eq!(version(&plain, name).as_deref(), model, "{name}");
        }
        let labels = [("test".to_owned(), "t".to_owned()), ("c".to_owned(), "k".to_owned())];
        let naming = naming().with_versions("n", &labels, &["k".to_owned()]);
        for (name, model) in [
            ("stable", Some("a")),
            ("latest", Some("n")),
            ("n", Some("n")),
            ("b", Some("b")),
            ("k", Some("k")),
            ("test", Some("t")),
            ("t", Some("t")),
            ("c", Some("k")),
            ("x", None),
        ] {
            assert_eq!(version(&naming, name).as_deref(), model, "{name}");
        }
    }

    #[test]
    fn that_a_fallback_answers_is_told_once_a_second() {
        let naming = Naming::new("a", &[]).with_fallback(Some("b"));
        assert_eq!(naming.fallback().map(|model| &**model), Some("b"));
        let told: Vec<_> = [1, 2, 1000, 1001, 1002, 5000].into_iter().filter(|ms| naming.is_to_be_told(*ms)).collect();
        assert_eq!(told, [1, 1001, 5000]);
    }

    #[test]
    fn a_trial_goes_on_when_the_vmodel_is_set_again() {
        let naming = |id| naming().with_trial(Some(id));
        let (first, mut same, mut next) = (naming(1), naming(1), naming(2));
        for other in [&mut same, &mut next] {
            other.go_on(&first);
        }
        let is_first = |other: &Naming| Arc::ptr_eq(first.trial().unwrap(), other.trial().unwrap());
        assert!(is_first(&same) && !is_first(&next));
        let models: Vec<_> = first.trial().unwrap().tallies().into_iter().map(|tally| tally.model).collect();
        assert_eq!(models, ["a", "b", "c"]);
    }

    #[test]
    fn a_shadow_takes_its_part_of_the_calls() {
        let naming = Naming::new("a", &[]).with_shadow(Some(Shadow::new("b", 7, true)));
        let shadow = naming.shadow().unwrap();
        assert_eq!((0..WHOLE).filter(|draw| shadow.takes(*draw)).count(), 7);
        assert!(shadow.is_to_be_told(1) && !shadow.is_to_be_told(2) && shadow.is_to_be_told(1001));
        assert!((0..WHOLE).all(|draw| &**naming.model(|| draw) == "a"), "it answers no caller");
    }

    #[test]
    fn the_active_model_may_get_nothing() {
        let naming = Naming::new("a", &[("b".to_owned(), WHOLE)]);
        assert!((0..WHOLE).all(|draw| &**naming.model(|| draw) == "b"));
    }

    #[test]
    fn without_a_choice_nothing_is_drawn() {
        let naming = Naming::new("a", &[]);
        assert_eq!(&**naming.model(|| unreachable!()), "a");
    }

    #[test]
    fn a_key_draws_the_same_again_and_keys_spread() {
        let mut counts = [0; WHOLE as usize];
        for number in 0..100_000 {
            let mut headers = HeaderMap::new();
            headers.insert(MM_SPLIT_KEY, format!("user-{number}").parse().unwrap());
            let drawn = draw("v", &headers);
            assert_eq!(drawn, draw("v", &headers));
            counts[usize::from(drawn)] += 1;
        }
        // A thousand each; a standard deviation is 31.
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_key_draws_what_other_instances_and_versions_draw() {
        let mut headers = HeaderMap::new();
        headers.insert(MM_SPLIT_KEY, "user-1".parse().unwrap());
        assert_eq!((draw("v", &headers), draw("w", &headers)), (27, 16));
    }

    #[test]
    fn without_a_key_chance_decides() {
        let drawn: Vec<_> = (0..200).map(|_| draw("v", &HeaderMap::new())).collect();
        assert!(drawn.iter().all(|draw| *draw < WHOLE) && drawn.iter().any(|draw| *draw != drawn[0]));
    }
}
