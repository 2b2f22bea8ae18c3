//! Where diagnostics go: bounded, whatever the text, and each mistake once.

use super::MOST_DIAGNOSTICS;
use super::sources::Sources;
use crate::diagnostic::{Diagnostic, Severity};
use crate::rule;
use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Most diagnostics that are remembered, so that the same one is not said again.
const MOST_REMEMBERED: usize = 100_000;

/// Where diagnostics go.
#[derive(Debug, Default)]
pub(super) struct Sink {
    syntax: Vec<Diagnostic>,
    /// Errors: warnings take no room from them.
    found: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    seen: HashSet<u64>,
    /// Errors that are not kept.
    dropped: usize,
    warnings_dropped: usize,
    /// Whether a table is read that need not be whole, such as `[defaults]`: nothing is missing there, and
    /// what must suit may yet be completed.
    partial: bool,
}

impl Sink {
    /// Keeps what is wrong with the text as TOML.
    pub(super) fn syntax(&mut self, diagnostic: Diagnostic) {
        if self.syntax.len() < MOST_DIAGNOSTICS {
            self.syntax.push(diagnostic);
        } else {
            self.dropped += 1;
        }
    }

    /// Counts mistakes that are not kept.
    pub(super) fn drop_more(&mut self, number: usize) {
        self.dropped = self.dropped.saturating_add(number);
    }

    /// Reads with `read` what need not be whole.
    pub(super) fn partially(&mut self, read: impl FnOnce(&mut Self)) {
        self.partial = true;
        read(self);
        self.partial = false;
    }

    /// Whether no further error is kept: what is costly to say need not be said.
    pub(super) fn is_full(&self) -> bool {
        self.found.len() >= MOST_DIAGNOSTICS
    }

    /// Keeps a diagnostic, or counts it. The same rule at the same places is one mistake, however many
    /// partitions are made from there.
    pub(super) fn push(&mut self, diagnostic: Diagnostic) {
        let missing = diagnostic.rule == rule::MISSING_KEY.name;
        // What is missing may be in the part that could not be understood.
        if missing && (self.partial || !self.syntax.is_empty()) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        diagnostic.rule.hash(&mut hasher);
        for label in &diagnostic.labels {
            (label.span.start, label.span.end).hash(&mut hasher);
        }
        if missing || diagnostic.labels.is_empty() {
            diagnostic.message.hash(&mut hasher);
        }
        if self.seen.len() < MOST_REMEMBERED && !self.seen.insert(hasher.finish()) {
            return;
        }
        let (kept, dropped) = match diagnostic.severity {
            Severity::Error => (&mut self.found, &mut self.dropped),
            Severity::Warning => (&mut self.warnings, &mut self.warnings_dropped),
        };
        if kept.len() < MOST_DIAGNOSTICS {
            kept.push(diagnostic);
        } else {
            *dropped += 1;
        }
    }

    /// Keeps a diagnostic about keys that do not suit each other. Where a table need not be whole, they may
    /// never meet.
    pub(super) fn push_unsuited(&mut self, diagnostic: Diagnostic) {
        if !self.partial {
            self.push(diagnostic);
        }
    }

    /// All diagnostics in the order of the text; those on a line with a syntax error follow from it and are
    /// left out.
    pub(super) fn finish(self, sources: &Sources) -> Vec<Diagnostic> {
        let line = |at: usize| sources.line_start(at);
        let broken: BTreeSet<usize> = self.syntax.iter().filter_map(Diagnostic::start).map(line).collect();
        let stands = |d: &Diagnostic| !d.start().is_some_and(|at| broken.contains(&line(at)));
        let place = |diagnostic: &Diagnostic| (diagnostic.start(), diagnostic.severity);
        let mut all = self.syntax;
        all.extend(self.found.into_iter().filter(stands));
        all.sort_by_key(place);
        let more = self.dropped + all.len().saturating_sub(MOST_DIAGNOSTICS);
        all.truncate(MOST_DIAGNOSTICS);
        all.extend(self.warnings.into_iter().filter(stands));
        all.sort_by_key(place);
        if self.warnings_dropped > 0 {
            let (most, more) = (MOST_DIAGNOSTICS, self.warnings_dropped);
            let message = format!("there are more than {most} warnings; {more} or more are not shown");
            // A frame that is good is taken, however much there is to say about it.
            all.push(Diagnostic { severity: Severity::Warning, ..Diagnostic::of(rule::TOO_MANY, message) });
        }
        if more > 0 {
            let message = format!("there are more than {MOST_DIAGNOSTICS} mistakes; {more} or more are not shown");
            all.push(Diagnostic::of(rule::TOO_MANY, message));
        }
        all
    }
}
