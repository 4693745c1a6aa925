//! A change whose fate is unknown: what happened is never sent again, what did not is, and a stranger's is left alone.

#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use bluegreen_core::{
    Answer, Applied, AuthorityAnswer, ChangePlan, ChangeStatus, Clock, DnsCapabilities, DnsProvider, Entry,
    Environment, Error, Intent, Journal, Kind, Migration, NoDatabase, NoProbe, Outcome, Receipt, Record, RecordSet,
    Result, Shape, Snapshot, Spec, Steps, Target, Timestamp, Weights, WritePath,
};
use mockall::{Sequence, mock};
use std::sync::{Arc, Mutex};
use std::time::Duration;

mock! {
    #[derive(Debug)]
    Dns {}
    #[async_trait]
    impl DnsProvider for Dns {
        fn name(&self) -> &str;
        fn capabilities(&self) -> DnsCapabilities;
        async fn read(&self, record: &Record) -> Result<Snapshot>;
        fn compile(&self, snapshot: &Snapshot, intent: &Intent) -> Result<ChangePlan>;
        async fn apply(&self, plan: &ChangePlan) -> Result<Applied>;
        async fn poll(&self, receipt: &Receipt) -> Result<ChangeStatus>;
        async fn ask_authorities(&self, record: &Record, samples: u32) -> Result<Vec<AuthorityAnswer>>;
    }
}

/// Time that passes when somebody waits for it.
#[derive(Debug, Clone, Default)]
struct Jumping(Arc<Mutex<Timestamp>>);

#[async_trait]
impl Clock for Jumping {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    async fn sleep_until(&self, deadline: Timestamp) {
        tokio::task::yield_now().await;
        let mut now = self.0.lock().unwrap();
        *now = deadline.max(*now);
    }
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Entry>>>);

#[async_trait]
impl Journal for Kept {
    async fn load(&self) -> Result<Vec<Entry>> {
        Ok(self.0.lock().unwrap().clone())
    }
    async fn append(&self, entry: &Entry) -> Result<()> {
        let mut kept = self.0.lock().unwrap();
        if entry.seq != kept.len() as u64 {
            return Err(Error::new(Kind::Conflict, "append", "not next"));
        }
        kept.push(entry.clone());
        Ok(())
    }
}

fn blue() -> Target {
    Target::address([192, 0, 2, 1].into())
}

fn green() -> Target {
    Target::address([192, 0, 2, 2].into())
}

/// What stands at the name, as the mock's read and authorities both tell it.
#[derive(Debug, Clone)]
struct Standing(Arc<Mutex<Snapshot>>);

fn snapshot(shape: Shape, sets: Vec<RecordSet>, owner: Option<&str>, version: &str) -> Snapshot {
    Snapshot {
        record: Record {
            zone: "example.com".into(),
            name: "shop.example.com".into(),
        },
        shape,
        ttl: sets.iter().map(|s| s.ttl).max(),
        sets,
        owner: owner.map(Into::into),
        version: version.into(),
        raw: serde_json::Value::Null,
    }
}

impl Standing {
    fn plain() -> Self {
        Self(Arc::new(Mutex::new(snapshot(
            Shape::Simple,
            blue().record_sets(60),
            None,
            "1",
        ))))
    }

    fn now(&self) -> Snapshot {
        self.0.lock().unwrap().clone()
    }

    /// The intent really happens.
    fn become_(&self, intent: &Intent) {
        let next = format!("{}+", self.now().version);
        *self.0.lock().unwrap() = match intent {
            Intent::Weighted { share, ttl, owner, .. } => {
                let mut sets = blue().record_sets(*ttl);
                sets[0].values.extend(green().record_sets(*ttl)[0].values.clone());
                snapshot(Shape::Weighted { share: *share }, sets, Some(owner), &next)
            }
            Intent::Plain { sets, .. } => snapshot(Shape::Simple, sets.clone(), None, &next),
        };
    }

    /// A mock that reads, compiles, polls and answers by what stands here. What `apply` does is each test's own.
    fn mock(&self) -> MockDns {
        let mut dns = MockDns::new();
        dns.expect_name().return_const("mock".to_owned());
        dns.expect_capabilities()
            .returning(|| DnsCapabilities::new(Weights::UpTo(1000)));
        dns.expect_poll().returning(|_| Ok(ChangeStatus::InSync));
        let here = self.clone();
        dns.expect_read().returning(move |_| Ok(here.now()));
        dns.expect_compile().returning(|before, intent| {
            Ok(ChangePlan {
                record: before.record.clone(),
                intent: intent.clone(),
                share: None,
                before: before.clone(),
                changes: !before.is(intent, None),
                body: serde_json::Value::Null,
                lines: vec![],
            })
        });
        let here = self.clone();
        dns.expect_ask_authorities().returning(move |_, samples| {
            let now = here.now();
            let side = if now.shape
                == (Shape::Weighted {
                    share: bluegreen_core::Share::FULL,
                }) {
                1
            } else {
                0
            };
            let value = now.sets[0].values[side].clone();
            let answer = Answer::Serving {
                seen: [(value, samples)].into(),
                samples,
                ttl: now.ttl.unwrap(),
                serial: None,
            };
            Ok(vec![AuthorityAnswer {
                server: ([192, 0, 2, 53], 53).into(),
                answer,
            }])
        });
        dns
    }
}

fn migration(dns: MockDns) -> Migration {
    let mut spec = Spec::new(
        "t",
        Environment::none().target(blue()),
        Environment::none().target(green()),
    )
    .record("example.com", "shop.example.com")
    .write_path(WritePath::NoLiveTraffic)
    .hold(Duration::ZERO);
    spec.ttl = Duration::from_secs(5);
    Migration::builder("t")
        .dns(dns)
        .replicator(NoDatabase)
        .probe(NoProbe)
        .policy(Steps::new([100]))
        .journal(Kept::default())
        .clock(Jumping::default())
        .spec(spec)
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_happened_is_read_back_and_not_sent_again() {
    let standing = Standing::plain();
    let mut dns = standing.mock();
    // Adopt, all to green, release: three changes, each sent once although its answer is always lost.
    dns.expect_apply().times(3).returning(move |plan| {
        standing.become_(&plan.intent);
        Ok(Applied::Unknown("the answer was lost".into()))
    });
    assert_eq!(migration(dns).run().await.unwrap(), Outcome::Completed);
}

#[tokio::test]
async fn what_did_not_happen_is_sent_again() {
    let standing = Standing::plain();
    let mut dns = standing.mock();
    let mut order = Sequence::new();
    dns.expect_apply()
        .times(1)
        .in_sequence(&mut order)
        .returning(|_| Ok(Applied::Unknown("the request was lost".into())));
    dns.expect_apply()
        .times(3)
        .in_sequence(&mut order)
        .returning(move |plan| {
            standing.become_(&plan.intent);
            Ok(Applied::Accepted(Receipt("r".into())))
        });
    assert_eq!(migration(dns).run().await.unwrap(), Outcome::Completed);
}

#[tokio::test]
async fn what_a_stranger_did_meanwhile_is_left_alone() {
    let standing = Standing::plain();
    let mut dns = standing.mock();
    dns.expect_apply().times(1).returning(move |_| {
        let theirs = Target::address([203, 0, 113, 9].into()).record_sets(60);
        *standing.0.lock().unwrap() = snapshot(Shape::Simple, theirs, None, "theirs");
        Ok(Applied::Unknown("the answer was lost".into()))
    });
    let error = migration(dns).run().await.unwrap_err();
    assert_eq!(error.kind(), Kind::HumanNeeded);
    assert!(error.to_string().contains("somebody else"), "{error}");
}

#[tokio::test]
async fn what_was_refused_is_given_up_and_unwound() {
    let standing = Standing::plain();
    let before = standing.now();
    let mut dns = standing.mock();
    dns.expect_apply()
        .times(1)
        .returning(|_| Ok(Applied::Rejected("not in this zone".into())));
    let outcome = migration(dns).run().await.unwrap();
    assert!(
        matches!(&outcome, Outcome::RolledBack { why } if why.contains("not in this zone")),
        "{outcome}"
    );
    assert_eq!(standing.now(), before);
}
