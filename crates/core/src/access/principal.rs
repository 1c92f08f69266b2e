//! Who calls, and what they may infer with.

use std::sync::Arc;

use tokio::time::Instant;

use crate::access::credential::Listener;
use crate::access::patterns::Patterns;
use crate::access::tenant::Tenant;
use crate::call::priority::Priority;
use crate::call::subject::Subject;
use crate::wire::status::{Code, Status};

/// Who calls, as Python knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub groups: Vec<String>,
    /// Empty: none.
    pub tenant: String,
}

/// One pattern of names to infer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub pattern: String,
    /// Of names of vmodels, not of models.
    pub vmodels: bool,
    /// A bit for each.
    pub listeners: u8,
}

/// One who calls.
#[derive(Debug)]
pub struct Principal {
    pub identity: Identity,
    pub tenant: Option<Arc<Tenant>>,
    /// The highest class that its calls may have.
    pub highest: Priority,
    models: Patterns,
    vmodels: Patterns,
    expires: Option<Instant>,
}

impl Principal {
    #[must_use]
    pub fn new(
        identity: Identity,
        rights: &[Right],
        highest: Priority,
        tenant: Option<Arc<Tenant>>,
        expires: Option<Instant>,
    ) -> Self {
        let patterns = |vmodels| {
            let some = rights.iter().filter(|right| right.vmodels == vmodels);
            Patterns::new(some.map(|right| (right.pattern.as_str(), right.listeners)))
        };
        Self { models: patterns(false), vmodels: patterns(true), identity, tenant, highest, expires }
    }

    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }

    /// Whether it may call a model, or a vmodel whatever that stands for.
    ///
    /// # Errors
    /// PERMISSION_DENIED, in the same words whether there is such a model or not.
    pub fn may_infer(&self, subject: &Subject, listener: Listener) -> Result<(), Status> {
        let (what, name, patterns) = match &subject.vmodel {
            Some(vmodel) => ("vmodel", vmodel, &self.vmodels),
            None => ("model", &subject.model, &self.models),
        };
        if patterns.listeners(name) & listener.bit() != 0 {
            return Ok(());
        }
        let message = format!("{} may not infer with {what} {name}", self.identity.name);
        Err(Status::new(Code::PermissionDenied, message))
    }
}
