//! Looking at findings: what troubles there are, one of them with its evidence, and the commands that mend it.

use bluegreen_core::{Finding, Replicator, Severity};
use bluegreen_pg::PgReplicator;
use tokio_postgres::Client;

/// What blocks or warns; the preflight must see nothing else.
pub async fn troubles(replicator: &PgReplicator) -> Vec<Finding> {
    let mut findings = replicator.preflight().await.unwrap();
    for finding in &findings {
        assert!(
            !finding.seen.is_empty() && !finding.why.is_empty() && !finding.mend.is_empty(),
            "{finding:?}"
        );
        assert!(!format!("{finding:?}").contains("s3cret"), "{finding:?}");
    }
    let sorted = findings.is_sorted_by(|a, b| a.severity >= b.severity);
    assert!(sorted, "the worst comes first");
    findings.retain(|finding| finding.severity > Severity::Note);
    findings
}

#[track_caller]
pub fn find<'a>(findings: &'a [Finding], id: &str, severity: Severity, evidence: &[&str]) -> &'a Finding {
    let found: Vec<&Finding> = findings.iter().filter(|finding| finding.id == id).collect();
    let [finding] = found[..] else {
        panic!("{id} is there {} times in {findings:#?}", found.len())
    };
    assert_eq!(finding.severity, severity, "{finding}");
    for word in evidence {
        assert!(finding.seen.contains(word), "{word:?} is not in {finding}");
    }
    finding
}

/// Their names, sorted.
pub fn ids(findings: &[Finding]) -> Vec<&str> {
    let mut ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

/// The commands of a mend, which stand after the words of where.
pub fn sql(finding: &Finding) -> &str {
    let start = finding
        .mend
        .find("ALTER")
        .or(finding.mend.find("SELECT"))
        .or(finding.mend.find("DROP"))
        .unwrap();
    &finding.mend[start..]
}

/// Runs the commands of a mend that stand after the words `after` and before a remark, one by one: some want no transaction
/// around them.
pub async fn run(client: &Client, finding: &Finding, after: &str) {
    let (_, commands) = finding.mend.split_once(after).unwrap();
    for command in commands.split(" -- ").next().unwrap().split_inclusive(';') {
        client.batch_execute(command).await.unwrap();
    }
}
