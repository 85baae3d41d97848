//! Every recording of a real system below golden/ conforms.
#![allow(clippy::unwrap_used, missing_docs)]

use lvscheck::testing::case;
use lvscheck::testing::run::{CaseOutcome, run_all};
use std::path::Path;

#[test]
fn recordings_of_real_systems_conform() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let cases = case::find(&root).unwrap();
    assert!(!cases.is_empty(), "golden/ holds no case");
    let runs = run_all(&cases, &|_| ());
    let failed: Vec<String> = runs
        .iter()
        .filter_map(|run| match &run.outcome {
            CaseOutcome::Conforms => None,
            CaseOutcome::Differs(why) | CaseOutcome::CouldNotRun(why) => Some(format!("{}: {why}", run.name)),
        })
        .collect();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), runs.len(), failed.join("\n"));
}
