//! Which methods exist, and who answers them. Replaced as a whole by `set_rules`.

use hashbrown::{HashMap, HashSet};

use crate::listen::Port;
use crate::status::{Code, Status};

/// Rules of one inference method. Paths are field numbers, empty meaning none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodRule {
    pub extraction_path: Vec<u32>,
    pub extracts_vmodel: bool,
    pub injection_path: Vec<u32>,
    pub idempotent: bool,
}

/// All rules of an instance.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub serving_services: HashSet<String>,
    pub peer_services: HashSet<String>,
    /// By full method, without the leading slash.
    pub methods: HashMap<String, MethodRule>,
    pub allow_others: bool,
    pub forbidden_services: HashSet<String>,
}

/// The rule of a method that has none of its own: replayable, nothing read, nothing changed.
pub static ORDINARY: MethodRule =
    MethodRule { extraction_path: Vec::new(), extracts_vmodel: false, injection_path: Vec::new(), idempotent: true };

/// Who answers a method.
#[derive(Debug, PartialEq, Eq)]
pub enum Answerer<'a> {
    Python,
    Model(&'a MethodRule),
}

impl Rules {
    /// Looks a full method (`package.Service/Method`) up.
    ///
    /// # Errors
    /// UNIMPLEMENTED, before any routing, for methods that nobody may call.
    pub fn answerer(&self, port: Port, method: &str) -> Result<Answerer<'_>, Status> {
        let service = method.rsplit_once('/').map_or("", |(service, _)| service);
        let ours = match port {
            Port::Serving => &self.serving_services,
            Port::Peer => &self.peer_services,
        };
        if ours.contains(service) {
            return Ok(Answerer::Python);
        }
        let rule = self.methods.get(method);
        if service.is_empty() || self.forbidden_services.contains(service) || (rule.is_none() && !self.allow_others) {
            return Err(Status::new(
                Code::Unimplemented,
                format!("{method}: UNIMPLEMENTED: Method not found or not permitted: {method}"),
            ));
        }
        Ok(Answerer::Model(rule.unwrap_or(&ORDINARY)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow_others: bool) -> Rules {
        Rules {
            serving_services: HashSet::from(["mmesh.ModelMesh".to_owned()]),
            peer_services: HashSet::from(["modelmesh.v1.Peer".to_owned()]),
            methods: HashMap::from([("p.S/Known".to_owned(), MethodRule::default())]),
            allow_others,
            forbidden_services: HashSet::from(["mmesh.ModelRuntime".to_owned()]),
        }
    }

    #[test]
    fn each_port_has_its_own_services() {
        let rules = rules(true);
        assert_eq!(rules.answerer(Port::Serving, "mmesh.ModelMesh/anything"), Ok(Answerer::Python));
        assert_eq!(rules.answerer(Port::Peer, "modelmesh.v1.Peer/Ping"), Ok(Answerer::Python));
        assert!(matches!(rules.answerer(Port::Serving, "modelmesh.v1.Peer/Ping"), Ok(Answerer::Model(_))));
    }

    #[test]
    fn forbidden_and_unlisted_methods_are_unimplemented() {
        for (rules, method) in
            [(rules(true), "mmesh.ModelRuntime/loadModel"), (rules(false), "p.S/Other"), (rules(true), "nonsense")]
        {
            assert_eq!(rules.answerer(Port::Serving, method).unwrap_err().code, Code::Unimplemented);
        }
        assert!(rules(false).answerer(Port::Serving, "p.S/Known").is_ok());
    }
}
