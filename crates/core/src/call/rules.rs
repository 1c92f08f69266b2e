//! Which methods exist, and who answers them. Replaced as a whole by `set_rules`.

use hashbrown::{HashMap, HashSet};
use http::HeaderMap;

use crate::access::Listener;
use crate::call::identify::names_a_model;
use crate::transport::port::Port;
use crate::wire::status::{Code, Status};

/// Rules of one inference method. Paths are field numbers, empty meaning none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four questions about a method that do not hang together")]
pub struct MethodRule {
    pub extraction_path: Vec<u32>,
    pub extracts_vmodel: bool,
    /// A header that names a model wins over the message, which is then not looked into.
    pub header_first: bool,
    pub injection_path: Vec<u32>,
    /// The field of its messages that has a version of the vmodel; 0: there is none.
    pub version_field: u32,
    pub idempotent: bool,
    /// Python answers it on the serving port, though its service is that of models.
    pub ours: bool,
}

/// All rules of an instance.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub serving_services: HashSet<String>,
    pub peer_services: HashSet<String>,
    /// Those of the serving services that are answered at the management listener only.
    pub management_services: HashSet<String>,
    /// By full method, without the leading slash.
    pub methods: HashMap<String, MethodRule>,
    pub allow_others: bool,
    pub forbidden_services: HashSet<String>,
    /// Full methods that take no credential.
    pub open_methods: HashSet<String>,
}

/// The rule of a method that has none of its own: replayable, nothing read, nothing changed.
pub static ORDINARY: MethodRule = MethodRule {
    extraction_path: Vec::new(),
    extracts_vmodel: false,
    header_first: false,
    injection_path: Vec::new(),
    version_field: 0,
    idempotent: true,
    ours: false,
};

/// Who answers a method.
#[derive(Debug, PartialEq, Eq)]
pub enum Answerer<'a> {
    Python,
    Model(&'a MethodRule),
}

impl MethodRule {
    /// The rule for a call with these headers.
    #[must_use]
    pub fn for_headers(&self, headers: &HeaderMap) -> Self {
        if !self.header_first || !names_a_model(headers) {
            return self.clone();
        }
        Self { extraction_path: Vec::new(), injection_path: self.injection_path.clone(), ..*self }
    }
}

impl Rules {
    /// Looks a full method (`package.Service/Method`) up.
    ///
    /// # Errors
    /// UNIMPLEMENTED, before any routing, for methods that are not allowed.
    pub fn answerer(&self, port: Port, method: &str) -> Result<Answerer<'_>, Status> {
        let (service, name) = method.rsplit_once('/').unwrap_or_default();
        let ours = match port {
            Port::Serving => &self.serving_services,
            Port::Peer => &self.peer_services,
        };
        if ours.contains(service) {
            return Ok(Answerer::Python);
        }
        let rule = self.methods.get(method);
        if port == Port::Serving && rule.is_some_and(|rule| rule.ours) {
            return Ok(Answerer::Python);
        }
        let listed = rule.is_some() || (self.allow_others && is_plain(service) && is_plain(name));
        if !listed || service.is_empty() || self.forbidden_services.contains(service) {
            return Err(Status::new(
                Code::Unimplemented,
                format!("{method}: UNIMPLEMENTED: Method not found or not permitted: {method}"),
            ));
        }
        Ok(Answerer::Model(rule.unwrap_or(&ORDINARY)))
    }

    /// Whether a call that `answerer` answers may come by a listener: management by its own, if it has one, models by the others.
    ///
    /// # Errors
    /// UNIMPLEMENTED, naming the setting of the right port.
    pub fn admit(&self, answerer: &Answerer<'_>, listener: Listener, method: &str) -> Result<(), Status> {
        let right = match answerer {
            Answerer::Model(_) if listener == Listener::Management => "MM_SVC_GRPC_PORT",
            Answerer::Python if listener != Listener::Management && self.is_management(method) => "MM_MANAGEMENT_PORT",
            _ => return Ok(()),
        };
        Err(Status::new(Code::Unimplemented, format!("{method} is answered at another port of this instance, {right}")))
    }

    fn is_management(&self, method: &str) -> bool {
        let (service, _) = method.rsplit_once('/').unwrap_or_default();
        self.management_services.contains(service)
    }
}

/// Which bytes of a method mean themselves to every server.
static PLAIN: [bool; 256] = plain_bytes();

const fn plain_bytes() -> [bool; 256] {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(byte, b'/' | b'\\' | b'%' | b'?' | b'#' | b';');
        byte += 1;
    }
    plain
}

/// Whether a part of a path means itself to every server. One that folds `//`, `.` or `%2E` would take another path for
/// a service that is not allowed.
fn is_plain(part: &str) -> bool {
    part.bytes().any(|byte| byte != b'.') && part.bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// The name of a method in the path of its call.
#[must_use]
pub fn method_in(path: &str) -> &str {
    match path.strip_prefix('/') {
        Some(method) if !method.starts_with('/') => method,
        _ => path.trim_start_matches('/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::headers::MM_VMODEL_ID;
    use http::header::HeaderValue;

    fn rules(allow_others: bool) -> Rules {
        Rules {
            serving_services: HashSet::from(["mmesh.ModelMesh".to_owned()]),
            peer_services: HashSet::from(["modelmesh.v1.Peer".to_owned()]),
            methods: HashMap::from([("p.S/Known".to_owned(), MethodRule::default())]),
            allow_others,
            forbidden_services: HashSet::from(["mmesh.ModelRuntime".to_owned()]),
            ..Rules::default()
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
    fn management_with_a_port_of_its_own_is_answered_there_alone_and_models_are_not() {
        let admitted = |rules: &Rules, listener, method| {
            rules.admit(&rules.answerer(Port::Serving, method).unwrap(), listener, method).map_err(|error| error.code)
        };
        let mut rules = rules(true);
        rules.serving_services.insert("grpc.health.v1.Health".to_owned());
        for listener in [Listener::Grpc, Listener::Rest] {
            assert_eq!(admitted(&rules, listener, "mmesh.ModelMesh/registerModel"), Ok(()));
        }
        rules.management_services.insert("mmesh.ModelMesh".to_owned());
        for listener in [Listener::Grpc, Listener::Rest] {
            let refused = admitted(&rules, listener, "mmesh.ModelMesh/registerModel");
            assert_eq!(refused, Err(Code::Unimplemented));
            assert_eq!(admitted(&rules, listener, "grpc.health.v1.Health/Check"), Ok(()));
            assert_eq!(admitted(&rules, listener, "p.S/Known"), Ok(()));
        }
        assert_eq!(admitted(&rules, Listener::Management, "mmesh.ModelMesh/registerModel"), Ok(()));
        assert_eq!(admitted(&rules, Listener::Management, "grpc.health.v1.Health/Check"), Ok(()));
        assert_eq!(admitted(&rules, Listener::Management, "p.S/Known"), Err(Code::Unimplemented));
    }

    #[test]
    fn a_method_of_ours_in_a_service_of_models_is_ours_for_clients_alone() {
        let mut rules = rules(false);
        let ours = MethodRule { ours: true, ..MethodRule::default() };
        rules.methods.insert("p.S/Live".to_owned(), ours);
        assert_eq!(rules.answerer(Port::Serving, "p.S/Live"), Ok(Answerer::Python));
        assert!(matches!(rules.answerer(Port::Peer, "p.S/Live"), Ok(Answerer::Model(_))));
        assert!(matches!(rules.answerer(Port::Serving, "p.S/Known"), Ok(Answerer::Model(_))));
    }

    #[test]
    fn a_header_wins_over_the_message_only_where_the_rule_says_so() {
        let named = HeaderMap::from_iter([(MM_VMODEL_ID, HeaderValue::from_static("v"))]);
        let mut rule = MethodRule { extraction_path: vec![1], injection_path: vec![2], ..MethodRule::default() };
        assert_eq!(rule.for_headers(&named), rule);
        rule.header_first = true;
        assert_eq!(rule.for_headers(&HeaderMap::new()), rule);
        assert_eq!(rule.for_headers(&named), MethodRule { extraction_path: vec![], ..rule.clone() });
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

    #[test]
    fn other_spellings_of_a_forbidden_method_are_unimplemented() {
        for method in [
            "mmesh.ModelRuntime//loadModel",
            "mmesh.ModelRuntime/./loadModel",
            "x/../mmesh.ModelRuntime/loadModel",
            "/mmesh.ModelRuntime/loadModel",
            "mmesh%2EModelRuntime/loadModel",
            "mmesh.ModelRuntime/load%4Dodel",
            "mmesh.ModelRuntime/loadModel?x",
            "mmesh.ModelRuntime#/loadModel",
            "mmesh.ModelRuntime\\/loadModel",
            "./loadModel",
            "mmesh.ModelRuntime/",
            "mmesh.ModelRuntime /loadModel",
        ] {
            let refused = rules(true).answerer(Port::Serving, method).expect_err(method);
            assert_eq!(refused.code, Code::Unimplemented, "{method}");
        }
        assert!(rules(true).answerer(Port::Serving, "my-package.v1.Service_2/Do.it").is_ok());
    }
}
