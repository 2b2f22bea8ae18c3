//! Where in the text everything is declared, so that what is found later can point there.

use crate::diagnostic::{Diagnostic, Severity};
use crate::plan::{Finding, Subject};
use crate::rule;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Places of one subject's keys, such as `processors.minimum`; the empty key is the subject itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(BTreeMap<String, Range<usize>>);

impl Keys {
    /// Notes where a key is declared.
    pub(super) fn note(&mut self, key: &str, span: Range<usize>) {
        self.0.insert(key.to_owned(), span);
    }

    /// Where just this key is declared.
    pub(super) fn exactly(&self, key: &str) -> Option<Range<usize>> {
        self.0.get(key).cloned()
    }

    /// Where a key is declared, or the nearest thing around it that is.
    fn find(&self, key: &str) -> Option<Range<usize>> {
        let mut key = key;
        loop {
            if let Some(span) = self.0.get(key) {
                return Some(span.clone());
            }
            match key.rsplit_once('.') {
                Some((around, _)) => key = around,
                None => return self.0.get("").cloned(),
            }
        }
    }
}

/// Places by what is declared there and by key. Partitions of one pattern share theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(BTreeMap<Subject, Arc<Keys>>);

impl Spans {
    /// Notes where the keys of a subject are declared; what was noted first stays.
    pub(super) fn note(&mut self, subject: Subject, keys: Arc<Keys>) {
        self.0.entry(subject).or_insert(keys);
    }

    /// Where just this key is declared.
    #[must_use]
    pub fn exactly(&self, subject: &Subject, key: &str) -> Option<Range<usize>> {
        self.0.get(subject)?.exactly(key)
    }

    /// Where a key is declared, or the nearest thing around it that is: what stands in the file when a
    /// value is a default. None when the subject is not in the file.
    #[must_use]
    pub fn find(&self, subject: &Subject, key: &str) -> Option<Range<usize>> {
        self.0.get(subject)?.find(key)
    }
}

/// Findings of a plan as diagnostics that point into the file.
#[must_use]
pub fn findings(findings: &[Finding], spans: &Spans, severity: Severity) -> Vec<Diagnostic> {
    let place = |finding: &Finding| {
        // A plan that came over a wire may be newer and have rules that are not known here.
        let rule = rule::find(&finding.rule).unwrap_or(rule::PLAN);
        let mut diagnostic = Diagnostic { severity, ..Diagnostic::of(rule, finding.text.clone()) };
        if let Some(help) = &finding.help {
            diagnostic = diagnostic.help(help.clone());
        }
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
