//! `lvscheck generate`.

use super::{CommonArgs, print};
use crate::exit::{Failure, Status};
use crate::generate::{self, GenerateArgs};
use crate::report::{counted, grouped};

pub(super) fn run(args: &GenerateArgs, common: &CommonArgs) -> Result<Status, Failure> {
    let made = generate::run(args).map_err(Failure::usage)?;
    if !common.quiet && args.file.as_os_str() != "-" {
        let (packets, flows) = (counted(made.packets, "packet"), counted(made.flows, "flow"));
        print(&format!("{}: {packets} in {flows}, {} bytes\n", args.file.display(), grouped(made.bytes)))?;
    }
    Ok(Status::Conforms)
}
