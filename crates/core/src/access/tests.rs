//! The table of credentials, from a question to its answer and back to the question.

use http::HeaderValue;

use super::*;
use crate::call::subject::Subject;

fn shown(key: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).unwrap())])
}

fn question(access: &Access, key: &str) -> Question {
    match access.look(&shown(key), &Origin::default()) {
        Looked::Unknown(question) => question,
        other => panic!("{other:?}"),
    }
}

fn known(name: &str, valid: Option<Duration>) -> Verdict {
    let rights = vec![Right { pattern: "*".into(), vmodels: false, listeners: 1 }];
    let identity = Identity { name: name.into(), ..Identity::default() };
    Verdict::Known { identity, rights, highest: Priority::Normal, valid }
}

/// Asks about an unknown key, and answers.
async fn learn(access: &Access, key: &str, verdict: Verdict) -> Answer {
    let mut token = 0;
    let receiver = access.ask(question(access, key), 7, |asked| {
        token = asked.token;
        true
    });
    assert!(access.answer(token, verdict));
    receiver.unwrap().await.unwrap()
}

fn name_of(access: &Access, key: &str) -> Option<String> {
    match access.look(&shown(key), &Origin::default()) {
        Looked::Known(principal) => Some(principal.identity.name.clone()),
        _ => None,
    }
}

fn access() -> Access {
    let access = Access::default();
    access.set(Some(vec![("t".into(), Limits::default())]));
    access
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_asked_about_once_until_the_rules_change() {
    let access = access();
    let principal = learn(&access, "k", known("p", None)).await.unwrap();
    assert!(principal.may_infer(&Subject { model: "m".into(), vmodel: None }, Listener::Grpc).is_ok());
    assert_eq!(name_of(&access, "k").as_deref(), Some("p"));
    access.set(Some(vec![]));
    question(&access, "k");
    access.set(None);
    assert!(!access.is_on());
}

#[tokio::test(start_paused = true)]
async fn many_calls_with_one_new_credential_ask_once() {
    let access = access();
    let mut told = 0;
    let waiters: Vec<_> = (0..10)
        .map(|token| {
            access.ask(question(&access, "k"), token, |_| {
                told += 1;
                true
            })
        })
        .collect();
    assert_eq!(told, 1);
    assert!(access.answer(0, known("p", None)));
    assert!(!access.answer(0, known("p", None)));
    for waiter in waiters {
        assert_eq!(waiter.unwrap().await.unwrap().unwrap().identity.name, "p");
    }
    assert_eq!(access.asking.lock().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_counts_until_it_expires() {
    let access = access();
    learn(&access, "k", known("p", Some(Duration::from_secs(60)))).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(name_of(&access, "k").is_some());
    tokio::time::advance(Duration::from_secs(1)).await;
    question(&access, "k");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_kept_for_seconds_and_one_that_may_pass_is_not() {
    let access = access();
    let refused = |kept| Verdict::Refused { status: Status::new(Code::Unauthenticated, "no"), kept };
    assert_eq!(learn(&access, "k", refused(true)).await.unwrap_err().message, "no");
    assert!(matches!(access.look(&shown("k"), &Origin::default()), Looked::Refused(_)));
    tokio::time::advance(REFUSED).await;
    learn(&access, "k", refused(false)).await.unwrap_err();
    question(&access, "k");
}

#[test]
fn questions_are_bounded_and_made_up_credentials_push_nobody_out() {
    let access = access();
    let ask = |number: usize| {
        let question = question(&access, &number.to_string());
        access.ask(question, number as u64, |_| true)
    };
    let waiting: Vec<_> = (0..MOST_QUESTIONS).map(|number| ask(number).unwrap()).collect();
    assert_eq!(ask(MOST_QUESTIONS).unwrap_err().code, Code::ResourceExhausted);
    let refused = || Verdict::Refused { status: Status::new(Code::Unauthenticated, "no"), kept: true };
    assert!(access.answer(0, known("p", None)));
    assert!((1..MOST_QUESTIONS).all(|number| access.answer(number as u64, refused())));
    drop(waiting);
    for number in MOST_QUESTIONS..2 * MOST_REFUSED {
        let _waiter = ask(number).unwrap();
        assert!(access.answer(number as u64, refused()));
    }
    assert!(access.known.read().refused.len() <= MOST_REFUSED);
    assert_eq!(name_of(&access, "0").as_deref(), Some("p"));
}

#[test]
fn a_queue_that_takes_no_question_leaves_nothing_behind() {
    let access = access();
    assert!(access.ask(question(&access, "k"), 1, |_| false).is_err());
    assert!(access.ask(question(&access, "k"), 2, |_| true).is_ok());
    assert!(!access.answer(1, known("p", None)));
}

#[test]
fn a_tenant_goes_on_with_what_it_has_used() {
    let access = access();
    let limits = || Limits { calls_per_second: None, calls_at_once: Some(1) };
    access.set(Some(vec![("t".into(), limits())]));
    let tenant = Arc::clone(&access.known.read().tenants["t"]);
    let turn = tenant.begin("t", 1, Instant::now()).unwrap();
    access.set(Some(vec![("t".into(), limits())]));
    let tenant = Arc::clone(&access.known.read().tenants["t"]);
    assert!(tenant.begin("t", 1, Instant::now()).is_err());
    drop(turn);
    assert!(tenant.begin("t", 1, Instant::now()).is_ok());
}

#[tokio::test]
async fn what_tenants_use_is_counted_and_those_beyond_a_bound_together() {
    let access = Access::default();
    let tenants = (0..1_002).map(|number| (format!("t{number:04}"), Limits::default())).collect();
    access.set(Some(tenants));
    for (name, bytes) in [("t0000", 7), ("t1000", 1), ("t1001", 2)] {
        let tenant = Arc::clone(&access.known.read().tenants[name]);
        let mut turn = tenant.begin(name, 3, Instant::now()).unwrap();
        turn.bytes = bytes;
        drop(turn);
        tenant.limit(Limits { calls_at_once: Some(0), calls_per_second: None });
        assert!(tenant.begin(name, 1, Instant::now()).is_err());
    }
    let used = access.used();
    assert_eq!(used.len(), 1_001);
    let of =
        |name: &str| used.iter().find(|(one, _)| one == name).map(|(_, used)| (used.calls, used.refused, used.bytes));
    assert_eq!(of("t0000"), Some((3, 1, 7)));
    assert_eq!(of("t0001"), Some((0, 0, 0)));
    assert_eq!((of("t1000"), of("(other)")), (None, Some((6, 2, 3))));
}
