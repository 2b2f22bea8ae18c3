//! Which running frame is meant.

use crate::arguments::Common;
use crate::lock::Holder;
use frame::name::Name;
use frame::root::{Environment, Root, RootError};
use std::path::PathBuf;

/// Why no frame can be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhichError {
    /// There is no place where frames could be.
    #[error(transparent)]
    Place(#[from] RootError),
    /// No frame runs.
    #[error("no frame runs here; `lpar up FILE` starts one")]
    None,
    /// The frame that was named does not run.
    #[error("the frame at {} does not run; `lpar up FILE` starts one", .0.display())]
    NotThere(PathBuf),
    /// Another frame than the one that was named is at the root that was named.
    #[error("frame {there} is at {}, not frame {wanted}; leave --frame out, or name the root of frame {wanted}", .root.display())]
    Another {
        /// The frame that was named.
        wanted: Name,
        /// The frame that is there.
        there: Name,
        /// Its run directory.
        root: PathBuf,
    },
    /// More than one runs.
    #[error("several frames run here: {}; name one with --frame", list(.0))]
    Several(Vec<Name>),
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// The environment of this process, as far as it decides where roots are.
#[must_use]
pub fn environment() -> Environment {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    Environment {
        superuser: rustix::process::geteuid().is_root(),
        runtime: path("XDG_RUNTIME_DIR"),
        state: path("XDG_STATE_HOME"),
        home: path("HOME"),
    }
}

/// The root of the frame `name`, whether it runs or not: what `up` makes.
///
/// # Errors
/// [`WhichError::Place`].
pub fn of_frame(common: &Common, name: &Name) -> Result<Root, WhichError> {
    let root = match &common.root {
        Some(directory) => Root::under(&absolute(directory)),
        None => Root::of_frame(name, &environment())?,
    };
    Ok(root)
}

/// The root of the running frame that is meant.
///
/// # Errors
/// [`WhichError`].
pub fn running(common: &Common) -> Result<Root, WhichError> {
    let root = choose(common, &environment(), runs, running_below)?;
    let there = Holder::read(&root.lock()).map(|holder| holder.frame);
    same(common.frame.as_ref(), there, root)
}

/// The root, when the frame there is the one that is wanted or nobody can tell.
fn same(wanted: Option<&Name>, there: Option<Name>, root: Root) -> Result<Root, WhichError> {
    match (wanted, there) {
        (Some(wanted), Some(there)) if *wanted != there => {
            Err(WhichError::Another { wanted: wanted.clone(), there, root: root.run })
        }
        _ => Ok(root),
    }
}

fn choose(
    common: &Common,
    environment: &Environment,
    runs: impl Fn(&Root) -> bool,
    below: impl Fn(&Environment) -> Result<Vec<Name>, RootError>,
) -> Result<Root, WhichError> {
    let named = match (&common.root, &common.frame) {
        (Some(directory), _) => Some(Root::under(&absolute(directory))),
        (None, Some(name)) => Some(Root::of_frame(name, environment)?),
        (None, None) => None,
    };
    if let Some(root) = named {
        return if runs(&root) { Ok(root) } else { Err(WhichError::NotThere(root.run)) };
    }
    let mut names = below(environment)?;
    match (names.pop(), names.is_empty()) {
        (None, _) => Err(WhichError::None),
        (Some(name), true) => Ok(Root::of_frame(&name, environment)?),
        (Some(name), false) => {
            names.push(name);
            names.sort();
            Err(WhichError::Several(names))
        }
    }
}

/// Daemons work in other directories than people.
fn absolute(directory: &std::path::Path) -> PathBuf {
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}

/// Whether a frame runs at `root`: its supervisor lives, or somebody who lost it holds a socket there, be it
/// a daemon or a partition.
#[must_use]
pub fn runs(root: &Root) -> bool {
    Holder::read(&root.lock()).is_some_and(|holder| holder.runs()) || !crate::sockets::held_below(&root.run).is_empty()
}

fn running_below(environment: &Environment) -> Result<Vec<Name>, RootError> {
    let (base, _) = Root::bases(environment)?;
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    names
        .filter_map(|name| match Root::of_frame(&name, environment) {
            Ok(root) if runs(&root) => Some(Ok(name)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn common(root: Option<&str>, frame: Option<&str>) -> Common {
        Common { json: false, root: root.map(PathBuf::from), frame: frame.map(name) }
    }

    fn chosen(common: &Common, present: &[&str]) -> Result<PathBuf, WhichError> {
        let environment = Environment { superuser: true, ..Environment::default() };
        let names: Vec<Name> = present.iter().map(|text| name(text)).collect();
        let runs =
            |root: &Root| root.run.starts_with("/r") || names.iter().any(|name| root.run.ends_with(name.as_str()));
        choose(common, &environment, runs, |_| Ok(names.clone())).map(|root| root.run)
    }

    #[test]
    fn a_root_or_a_name_decides() {
        assert_eq!(chosen(&common(Some("/r"), Some("b")), &["a", "b"]), Ok("/r/run".into()));
        assert_eq!(chosen(&common(None, Some("b")), &["a", "b"]), Ok("/run/bulkhead/b".into()));
        assert_eq!(chosen(&common(None, Some("c")), &["a"]), Err(WhichError::NotThere("/run/bulkhead/c".into())));
    }

    #[test]
    fn a_root_with_another_frame_is_not_meant() {
        let root = || Root::under(std::path::Path::new("/r"));
        assert_eq!(same(Some(&name("a")), Some(name("a")), root()), Ok(root()));
        assert_eq!(same(Some(&name("a")), None, root()), Ok(root()));
        assert_eq!(same(None, Some(name("b")), root()), Ok(root()));
        let another = same(Some(&name("a")), Some(name("b")), root()).unwrap_err().to_string();
        assert_eq!(another, "frame b is at /r/run, not frame a; leave --frame out, or name the root of frame a");
    }

    #[test]
    fn otherwise_there_must_be_exactly_one() {
        assert_eq!(chosen(&common(None, None), &["a"]), Ok("/run/bulkhead/a".into()));
        assert_eq!(chosen(&common(None, None), &[]), Err(WhichError::None));
        let several = chosen(&common(None, None), &["b", "a"]).unwrap_err();
        assert_eq!(several.to_string(), "several frames run here: a, b; name one with --frame");
    }

    #[test]
    fn an_empty_root_does_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        assert!(!runs(&root));
        std::fs::create_dir_all(&root.run).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(root.manager_socket()).unwrap();
        assert!(runs(&root));
    }
}
