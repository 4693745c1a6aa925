//! What would make the migration fail or harm somebody, looked for before it starts. Changes nothing.

use crate::connect::Settings;
use bluegreen_core::{Color, Finding, Severity};

/// Everything that was seen.
pub(crate) async fn run(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for color in [Color::Blue, Color::Green] {
        if let Err(e) = settings.connect(color).await {
            findings.push(Finding {
                id: "unreachable".into(),
                severity: Severity::Blocking,
                seen: e.to_string(),
                why: "Nothing can be copied from or to a server that cannot be reached.".into(),
                mend: format!("psql \"{}\"", settings.server(color).conninfo().without_password()),
            });
        }
    }
    findings
}
