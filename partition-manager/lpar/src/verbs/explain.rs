//! `explain`: what a reference code, or a rule of the frame file, says and asks for.

use super::{json, print};
use crate::arguments::Common;
use crate::failure::{Outcome, refuse};
use crate::show::Table;
use frame::code::REGISTRY;
use frame::rule;

/// `lpar explain [CODE|RULE]`; without a word it lists both.
///
/// # Errors
/// When there is no such code and no such rule.
pub fn explain(common: &Common, word: Option<&str>) -> Outcome {
    let Some(word) = word else { return list(common) };
    let upper = word.to_ascii_uppercase();
    if let Some(entry) = REGISTRY.iter().find(|entry| entry.reference == upper) {
        if common.json {
            return json(entry);
        }
        let severity = said(&entry.severity)?;
        let scope = said(&entry.scope)?;
        return print(&format!(
            "{}  {}\nseverity: {severity}\nconcerns: {scope}\ncause:    {}\naction:   {}\n",
            entry.reference, entry.text, entry.cause, entry.action
        ));
    }
    if let Some(rule) = rule::find(&word.to_ascii_lowercase()) {
        if common.json {
            return json(rule);
        }
        let severity = said(&rule.severity)?;
        return print(&format!(
            "{}  a rule of the frame file\nseverity: {severity}\nsays:     {}\nremedy:   {}\n",
            rule.name, rule.message, rule.remedy
        ));
    }
    let shown: String = word.chars().take(40).collect();
    refuse!(
        "there is neither a reference code nor a rule {shown:?}; `lpar explain` lists them all, `lpar events` and `lpar check` say which occurred"
    );
}

fn list(common: &Common) -> Outcome {
    if common.json {
        return json(&serde_json::json!({ "codes": REGISTRY, "rules": rule::TABLE }));
    }
    let mut codes = Table::new(&["code", "severity", "text"]);
    for entry in REGISTRY.iter() {
        codes.row([entry.reference.to_owned(), said(&entry.severity)?, entry.text.to_owned()]);
    }
    let mut rules = Table::new(&["rule", "severity", "says"]);
    for rule in rule::TABLE {
        rules.row([rule.name.to_owned(), said(&rule.severity)?, rule.message.to_owned()]);
    }
    print(&format!("{codes}\n{rules}"))
}

/// A word of the JSON as people read it.
fn said(value: &impl serde::Serialize) -> Outcome<String> {
    Ok(serde_json::to_value(value)?.as_str().unwrap_or_default().to_owned())
}
