//! Results as JUnit XML, as CI systems read it.

use super::run::{CaseOutcome, CaseRun};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

/// Renders a run of cases.
///
/// # Errors
/// The XML writer failed.
pub fn render(runs: &[CaseRun]) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("lvscheck");
    let mut suite = TestSuite::new("golden");
    for run in runs {
        let status = match &run.outcome {
            CaseOutcome::Conforms => TestCaseStatus::success(),
            CaseOutcome::Differs(text) => failure(NonSuccessKind::Failure, "differs", text),
            CaseOutcome::CouldNotRun(text) => failure(NonSuccessKind::Error, "could not run", text),
        };
        let mut case = TestCase::new(run.name.as_str(), status);
        case.set_classname("lvscheck");
        case.set_time(run.elapsed);
        suite.add_test_case(case);
    }
    report.add_test_suite(suite);
    report.to_string()
}

fn failure(kind: NonSuccessKind, word: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    let first = text.lines().next().unwrap_or(word);
    status.set_message(format!("{word}: {first}")).set_type(word).set_description(text);
    status
}
