//! To be written.
use crate::config::{DirectorConfig, ServerKey, ServiceKey};
use crate::director::{Arrival, ConfigError};
use crate::draws::Draws;
use crate::listing::{ConnectionView, ServiceView};
use crate::output::Output;
use crate::time::Nanos;
use crate::verdict::{DropReason, Names, Verdict};

/// To be written.
#[derive(Clone, Debug)]
pub struct Director {}

impl Director {
    /// To be written.
    pub fn new(_config: &DirectorConfig, _draws: Draws) -> Result<Director, ConfigError> {
        Ok(Director {})
    }
    /// To be written.
    pub fn receive(&mut self, _arrival: Arrival<'_>, _out: &mut Output) -> Verdict {
        Verdict::Dropped(DropReason::Unanswered)
    }
    /// To be written.
    pub fn advance(&mut self, _now: Nanos, _out: &mut Output) {}
    /// To be written.
    pub fn observe(&mut self, _observations: crate::observe::Observations) {}
    /// To be written.
    pub fn services(&self) -> Vec<ServiceView> {
        Vec::new()
    }
    /// To be written.
    pub fn connections(&self, _now: Nanos) -> Vec<ConnectionView> {
        Vec::new()
    }
}

impl Names for Director {
    fn service(&self, _number: u32) -> Option<&ServiceKey> {
        None
    }
    fn server(&self, _number: u32) -> Option<&ServerKey> {
        None
    }
}
