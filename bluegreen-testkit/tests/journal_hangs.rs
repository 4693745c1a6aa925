//! A journal that does not answer keeps nobody in this process from being heard.
#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use bluegreen_core::{AtOnce, Entry, Environment, Journal, Kind, Migration, NoDatabase, Request, Result, Spec, Target};
use bluegreen_testkit::VirtualClock;
use bluegreen_testkit::fake::{FakeDns, FakeProbe, MemoryJournal, Served};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Looks for requests are not answered any more from the given one on.
#[derive(Debug)]
struct Frozen {
    inner: MemoryJournal,
    from: usize,
    looks: AtomicUsize,
    hangs: Arc<tokio::sync::Notify>,
}

#[async_trait]
impl Journal for Frozen {
    async fn load(&self) -> Result<Vec<Entry>> {
        self.inner.load().await
    }
    async fn append(&self, entry: &Entry) -> Result<()> {
        self.inner.append(entry).await
    }
    async fn requests(&self) -> Result<Vec<Request>> {
        if self.looks.fetch_add(1, Ordering::SeqCst) >= self.from {
            self.hangs.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(vec![])
    }
    fn has_requests(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_look_for_requests_that_hangs_is_ended_by_a_word() {
    for from in [0, 1, 4] {
        let hangs = Arc::new(tokio::sync::Notify::new());
        let journal = Frozen {
            inner: MemoryJournal::new(),
            from,
            looks: AtomicUsize::new(0),
            hangs: hangs.clone(),
        };
        let target = |last| Target::address([192, 0, 2, last].into());
        let spec = Spec::new(
            "shop",
            Environment::at("https://blue.example.com").target(target(1)),
            Environment::at("https://green.example.com").target(target(2)),
        )
        .record("example.com", "shop.example.com");
        let clock = VirtualClock::new();
        let dns = FakeDns::new(clock.clone()).with_authorities([Duration::ZERO]);
        dns.put(spec.record.as_ref().unwrap(), Served::plain(&target(1), 60));
        let migration = Migration::builder("shop")
            .dns(dns)
            .replicator(NoDatabase)
            .probe(FakeProbe::new())
            .policy(AtOnce::new())
            .journal(journal)
            .clock(clock)
            .spec(spec)
            .build()
            .unwrap();
        let speaker = async {
            hangs.notified().await;
            migration.handle().stop();
        };
        let both = async { tokio::join!(migration.run(), speaker).0 };
        let ended = tokio::time::timeout(Duration::from_secs(60), both).await;
        let error = ended.expect("it was heard").unwrap_err();
        assert_eq!(error.kind(), Kind::HumanNeeded, "{error}");
        assert!(error.message().contains("stopped"), "{error}");
    }
}
