//! Who calls, and which models they may infer with.
//!
//! Python decides (`modelmesh/policy/access.py`): it is asked once about an unknown credential. Its answers
//! are kept in a table until the operator's rules change, so that a call whose credential is known costs one look.

mod credential;
mod patterns;
mod principal;
mod table;
pub mod tenant;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use crate::access::credential::{Credential, Listener, Origin, strip};
pub use crate::access::principal::{Identity, Principal, Right};
pub use crate::access::tenant::{Limits, Tenant, Turn, Used};

use crate::access::credential::Kind;
use crate::access::table::Table;
use crate::call::priority::Priority;
use crate::wire::status::{Code, Status};

/// Credentials that Python is asked about at a time. Whoever makes up more of them waits.
const MOST_QUESTIONS: usize = 256;
/// Calls that wait for answers.
const MOST_WAITING: usize = 4096;
/// How long a refusal is kept: issuers publish new keys, and clocks move on.
const REFUSED: Duration = Duration::from_secs(10);
/// Refusals that are kept. Others' credentials are not pushed out by those that somebody makes up.
const MOST_REFUSED: usize = 16_384;

/// What Python says of a credential.
#[derive(Debug)]
pub enum Verdict {
    Known {
        identity: Identity,
        rights: Vec<Right>,
        /// The highest class that its calls may have.
        highest: Priority,
        /// None: until the rules change.
        valid: Option<Duration>,
    },
    /// `kept`: the same credential is refused again without asking, for some seconds.
    Refused { status: Status, kept: bool },
}

/// What is known of the one who calls.
#[derive(Debug)]
pub enum Looked {
    Known(Arc<Principal>),
    Refused(Status),
    /// Python has to be asked.
    Unknown(Question),
}

/// A credential that nothing is known of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    kind: Kind,
    credential: Box<[u8]>,
}

/// The end of a wait for Python's answer.
pub type Answer = Result<Arc<Principal>, Status>;

/// What the control plane is told that somebody shows.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub token: u64,
    /// It is a certificate (DER); else a key or a token, empty if there is none.
    pub certificate: bool,
    pub credential: Vec<u8>,
}

/// The table of credentials, and what is being asked.
#[derive(Debug, Default)]
pub struct Access {
    on: AtomicBool,
    known: RwLock<Known>,
    asking: Mutex<Asking>,
}

/// Tenants with series of their own in metrics; the others share one.
const MOST_COUNTED: usize = 1_000;
const OTHERS: &str = "(other)";

#[derive(Debug, Default)]
struct Known {
    tables: [Table<Arc<Principal>>; Kind::COUNT],
    refused: HashMap<Question, (Instant, Status)>,
    tenants: HashMap<Box<str>, Arc<Tenant>>,
}

#[derive(Debug, Default)]
struct Asking {
    waiters: HashMap<Question, Vec<oneshot::Sender<Answer>>>,
    questions: HashMap<u64, Question>,
    waiting: usize,
}

impl Access {
    /// Whether anything is checked.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// New rules: everything known of credentials is forgotten. None: nothing is checked any more. Tenants go on with
    /// what they have used.
    pub fn set(&self, tenants: Option<Vec<(String, Limits)>>) {
        let mut known = self.known.write();
        known.tables = Default::default();
        known.refused.clear();
        self.on.store(tenants.is_some(), Ordering::Relaxed);
        let mut before = std::mem::take(&mut known.tenants);
        for (name, limits) in tenants.into_iter().flatten() {
            let tenant = before.remove(name.as_str()).unwrap_or_default();
            tenant.limit(limits);
            known.tenants.insert(name.into(), tenant);
        }
    }

    /// What each tenant has used, by name; those beyond a bound together.
    #[must_use]
    pub fn used(&self) -> Vec<(String, Used)> {
        let known = self.known.read();
        let mut all: Vec<_> = known.tenants.iter().map(|(name, tenant)| (name.to_string(), tenant.used())).collect();
        drop(known);
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        if all.len() > MOST_COUNTED {
            let others = all.split_off(MOST_COUNTED).into_iter().map(|(_, used)| used).fold(Used::default(), Used::and);
            all.push((OTHERS.to_owned(), others));
        }
        all
    }

    /// Whose credential a call shows.
    #[must_use]
    pub fn look(&self, headers: &HeaderMap, origin: &Origin) -> Looked {
        let credential = match Credential::of(headers, origin) {
            Ok(credential) => credential,
            Err(message) => return Looked::Refused(Status::new(Code::Unauthenticated, message)),
        };
        let (kind, bytes) = (credential.kind(), credential.bytes());
        let known = self.known.read();
        if let Some((principal, is_old)) = known.tables[kind as usize].get(bytes)
            && !principal.has_expired()
        {
            let principal = Arc::clone(principal);
            drop(known);
            if is_old {
                self.known.write().tables[kind as usize].renew(bytes);
            }
            return Looked::Known(principal);
        }
        let question = Question { kind, credential: bytes.into() };
        match known.refused.get(&question) {
            Some((until, status)) if *until > Instant::now() => Looked::Refused(status.clone()),
            _ => Looked::Unknown(question),
        }
    }

    /// Asks Python about a credential, unless that is being done. `token` is a new one; `tell` hands the question
    /// up.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too much is being asked.
    pub fn ask(
        &self,
        question: Question,
        token: u64,
        tell: impl FnOnce(Asked) -> bool,
    ) -> Result<oneshot::Receiver<Answer>, Status> {
        let busy = || Status::new(Code::ResourceExhausted, "too many new credentials are being checked; try again");
        let mut asking = self.asking.lock();
        if asking.waiting >= MOST_WAITING {
            return Err(busy());
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(waiters) = asking.waiters.get_mut(&question) {
            waiters.push(sender);
        } else {
            if asking.questions.len() >= MOST_QUESTIONS {
                return Err(busy());
            }
            let certificate = question.kind == Kind::Certificate;
            let asked = Asked { token, certificate, credential: question.credential.to_vec() };
            if !tell(asked) {
                return Err(busy());
            }
            asking.questions.insert(token, question.clone());
            asking.waiters.insert(question, vec![sender]);
        }
        asking.waiting += 1;
        Ok(receiver)
    }

    /// Python's answer; false for an unknown token.
    pub fn answer(&self, token: u64, verdict: Verdict) -> bool {
        let mut asking = self.asking.lock();
        let Some(question) = asking.questions.remove(&token) else { return false };
        let waiters = asking.waiters.remove(&question).unwrap_or_default();
        asking.waiting -= waiters.len();
        drop(asking);
        let answer = self.keep(question, verdict);
        for waiter in waiters {
            // One that does not wait any more has gone.
            let _ = waiter.send(answer.clone());
        }
        true
    }

    fn keep(&self, question: Question, verdict: Verdict) -> Answer {
        let mut known = self.known.write();
        match verdict {
            Verdict::Known { identity, rights, highest, valid } => {
                let tenant = known.tenants.get(identity.tenant.as_str()).cloned();
                let expires = valid.map(|valid| Instant::now() + valid);
                let principal = Arc::new(Principal::new(identity, &rights, highest, tenant, expires));
                known.tables[question.kind as usize].insert(question.credential, Arc::clone(&principal));
                Ok(principal)
            }
            Verdict::Refused { status, kept } => {
                if kept {
                    if known.refused.len() >= MOST_REFUSED {
                        known.refused.clear();
                    }
                    known.refused.insert(question, (Instant::now() + REFUSED, status.clone()));
                }
                Err(status)
            }
        }
    }
}

#[cfg(test)]
mod tests;
