//! Schedulers and their flags by name.

use crate::describe::options::unknown_value;
use crate::describe::problem::Problem;
use crate::describe::words::{Line, Word};
use lvscheck_engine::config::{SchedulerFlags, SchedulerKind};

/// A scheduler by its name.
///
/// # Errors
/// No scheduler of this system has that name; the message suggests the nearest.
pub fn scheduler(line: &Line<'_>, word: &Word<'_>, dpvs: bool) -> Result<SchedulerKind, Problem> {
    let known = scheduler_names(dpvs);
    match SchedulerKind::by_name(&word.text) {
        Some(kind) if known.contains(&&*word.text) => Ok(kind),
        Some(_) => {
            let system = if dpvs { "DPVS" } else { "Linux" };
            Err(line
                .problem(word, format!("{system} has no scheduler `{}`", word.text))
                .help(format!("schedulers: {}", known.join(", "))))
        }
        None => Err(line.problem(word, format!("unknown scheduler `{}`", word.text)).help(crate::describe::problem::suggest(
            &word.text,
            "schedulers",
            &known,
        ))),
    }
}

/// The schedulers that a system has.
pub fn scheduler_names(dpvs: bool) -> Vec<&'static str> {
    const DPVS: [&str; 6] = ["rr", "wrr", "wlc", "conhash", "fo", "mh"];
    if dpvs {
        return DPVS.to_vec();
    }
    SchedulerKind::NAMES.iter().map(|(name, _)| *name).filter(|name| *name != "conhash").collect()
}

/// `-b`'s list of flags.
///
/// # Errors
/// An unknown flag, or another scheduler's.
pub fn scheduler_flags(line: &Line<'_>, word: &Word<'_>, scheduler: SchedulerKind) -> Result<SchedulerFlags, Problem> {
    const KNOWN: &[&str] = &["flag-1", "flag-2", "flag-3", "sh-fallback", "sh-port", "mh-fallback", "mh-port"];
    let mut flags = SchedulerFlags::default();
    let mut offset = 0;
    for name in word.text.split(',') {
        let mut here = word.from(offset);
        here.length = name.chars().count().max(1);
        here.text = name.to_owned().into();
        offset += name.len() + 1;
        if let Some((owner @ ("sh" | "mh"), _)) = name.split_once('-')
            && owner != scheduler.name()
        {
            let message = format!("flag `{name}` is for scheduler {owner}, and the service has {}", scheduler.name());
            return Err(line.problem(&here, message));
        }
        match name {
            "flag-1" | "sh-fallback" | "mh-fallback" => flags.fallback = true,
            "flag-2" | "sh-port" | "mh-port" => flags.port = true,
            "flag-3" => flags.third = true,
            _ => return Err(unknown_value(line, &here, "scheduler flag", KNOWN)),
        }
    }
    Ok(flags)
}
