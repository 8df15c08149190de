//! Caller: who picks, by the environment.
//!
//! | variable | says | for |
//! |---|---|---|
//! | `MESH_LOCALITY` | `region/zone/subZone` | zone-aware routing, `failoverPriority` |
//! | `MESH_LABELS` | `key=value,key=value` | `failoverPriority` |
//! | `MESH_CALLER_NUMBER` | its number among the callers, from 0 | deterministic subsetting |
//!
//! An empty variable counts as none.

use crate::builder::BuildError;
use mesh_core::pick::Caller;
use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::str::FromStr;

/// The caller that the environment describes.
pub(crate) fn from_env() -> Result<Caller, BuildError> {
    from(&|name| env::var_os(name))
}

fn from(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Caller, BuildError> {
    let mut caller = Caller::default();
    caller.locality = read(variable, "MESH_LOCALITY")?.unwrap_or_default();
    caller.labels = read(variable, "MESH_LABELS")?.unwrap_or_default();
    caller.number = read(variable, "MESH_CALLER_NUMBER")?.unwrap_or_default();
    Ok(caller)
}

fn read<T: FromStr<Err: Display>>(
    variable: &impl Fn(&str) -> Option<OsString>,
    name: &'static str,
) -> Result<Option<T>, BuildError> {
    let Some(text) = variable(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.to_string_lossy().parse() {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(BuildError::Variable { name, why: format!("{error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::Locality;
    use mesh_core::pick::Labels;

    fn read_from(set: &[(&str, &str)]) -> Result<Caller, BuildError> {
        from(&|name| set.iter().find(|(known, _)| *known == name).map(|(_, text)| text.into()))
    }

    #[test]
    fn the_environment_says_who_calls() {
        let caller = read_from(&[
            ("MESH_LOCALITY", "eu/eu-1"),
            ("MESH_LABELS", "app=shop"),
            ("MESH_CALLER_NUMBER", "7"),
        ])
        .expect("all are well");
        assert_eq!(caller.locality, Locality::new("eu", "eu-1", ""));
        assert_eq!(caller.labels, Labels::from_iter([("app", "shop")]));
        assert_eq!(caller.number, 7);
        assert_eq!(read_from(&[("MESH_LOCALITY", "")]).expect("none"), Caller::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_variable() {
        for (name, text) in
            [("MESH_LOCALITY", "a/b/c/d"), ("MESH_LABELS", "app"), ("MESH_CALLER_NUMBER", "-1")]
        {
            let error = read_from(&[(name, text)]).expect_err(name).to_string();
            assert!(error.starts_with(&format!("{name} cannot be read: ")), "{error}");
        }
    }
}
