//! Where in the text everything is declared, so that what is found later can point there.

use crate::diagnostic::{Diagnostic, Severity};
use crate::plan::{Finding, RULES, Subject};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of the text, by what is declared there and by key, such as `processors.minimum`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(BTreeMap<Subject, BTreeMap<String, Range<usize>>>);

impl Spans {
    /// Notes where a key of a subject is declared; the empty key is the subject itself.
    pub(super) fn note(&mut self, subject: &Subject, key: &str, span: Range<usize>) {
        self.0.entry(subject.clone()).or_default().insert(key.to_owned(), span);
    }

    /// Where just this key is declared.
    #[must_use]
    pub fn exactly(&self, subject: &Subject, key: &str) -> Option<Range<usize>> {
        self.0.get(subject)?.get(key).cloned()
    }

    /// Where a key is declared, or the nearest thing around it that is: what stands in the file when a
    /// value is a default. None when the subject is not in the file.
    #[must_use]
    pub fn find(&self, subject: &Subject, key: &str) -> Option<Range<usize>> {
        let keys = self.0.get(subject)?;
        let mut key = key;
        loop {
            if let Some(span) = keys.get(key) {
                return Some(span.clone());
            }
            match key.rsplit_once('.') {
                Some((around, _)) => key = around,
                None => return keys.get("").cloned(),
            }
        }
    }
}

/// Findings of a plan as diagnostics that point into the file.
#[must_use]
pub fn findings(findings: &[Finding], spans: &Spans, severity: Severity) -> Vec<Diagnostic> {
    let place = |finding: &Finding| {
        let rule = known(&finding.rule);
        let mut diagnostic =
            Diagnostic { severity, help: finding.help.clone(), ..Diagnostic::error(rule, finding.text.clone()) };
        for claim in &finding.claims {
            let text = format!("{} {}", claim.subject, claim.what);
            match spans.find(&claim.subject, &claim.key) {
                Some(span) => diagnostic = diagnostic.at(span, text),
                None => diagnostic.message += &format!("; {text}"),
            }
        }
        diagnostic
    };
    findings.iter().map(place).collect()
}

/// The rule's name as one that lives as long as the program; a plan that came over a wire may be newer.
fn known(rule: &str) -> &'static str {
    RULES.iter().copied().find(|known| *known == rule).unwrap_or("plan")
}
