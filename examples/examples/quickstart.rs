//! A whole migration in memory: nothing to install, done in milliseconds. `cargo run -p examples --example quickstart`

use bluegreen_core::{AppGate, Color, Environment, Migration, Record, Result, Spec, Steps, Target, WritePath};
use bluegreen_testkit::{
    VirtualClock,
    fake::{Databases, FakeDns, FakeProbe, FakeReplicator, MemoryJournal, Served},
};

#[tokio::main]
async fn main() -> Result<()> {
    // Two databases, a name that points at blue, and a clock that jumps: 48 hours pass in no time.
    let clock = VirtualClock::new();
    let databases = Databases::new(clock.clone());
    for token in 0..1000 {
        databases.write(Color::Blue, token).expect("blue accepts writes");
    }
    let (blue, green) = (
        Target::address([192, 0, 2, 1].into()),
        Target::address([192, 0, 2, 2].into()),
    );
    let record = Record {
        zone: "example.com".into(),
        name: "shop.example.com".into(),
    };
    let dns = FakeDns::new(clock.clone()).with_authorities([std::time::Duration::ZERO]);
    dns.put(&record, Served::plain(&blue, 3600));

    let spec = Spec::new(
        "shop",
        Environment::at("https://blue.example.com")
            .health("/api/health")
            .target(blue),
        Environment::at("https://green.example.com")
            .health("/api/health")
            .target(green),
    )
    .record("example.com", "shop.example.com")
    .write_path(WritePath::BlueDatabase);

    let migration = Migration::builder("shop")
        .dns(dns)
        .replicator(FakeReplicator::new(&databases))
        .probe(FakeProbe::new())
        .policy(Steps::new([10, 50, 100]).bake("15m"))
        .gate(AppGate::new("blue pool", "green pool"))
        .journal(MemoryJournal::new())
        .clock(clock)
        .verify("orders can be read", || async { Ok::<_, String>(()) })
        .spec(spec)
        .build()?;

    println!("{}", migration.plan());
    let outcome = migration.run().await?;
    println!("{}", migration.report().await?);
    println!("{outcome}: green has {} of 1000 writes", databases.count(Color::Green));
    Ok(())
}
