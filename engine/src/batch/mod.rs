//! The batch composition: windows of packets, each part of the engine over the whole window at once.
//!
//! ```text
//! classify   every part of the window by itself     rules.rs     which packets are plain
//! track      every shard of the table by itself     run.rs       which connection, which state
//! schedule   the openings in order                  schedule.rs  which real server
//! rewrite    every part by itself, once it has them emit.rs      the frames that leave
//! ```
//!
//! Batch gives what [`Director::receive`] gives, byte for byte and in order, for any number of threads and any size of windows.
//! It can, because it never decides what is right: only packets about which nothing but their connection is in question take
//! the parallel way, over stretches in which nothing but connections changes; all others are given to the serial director, one
//! by one, in their place. What moves a connection on, what a scheduler chooses and what a method does to a packet is in both
//! compositions the same code.
//!
//! So it is for the Linux director. FULLNAT of DPVS, whose packets classify sorts out by the same rules, goes on in fullnat.rs.

mod alike;
mod emit;
mod frames;
mod fullnat;
mod hands;
mod lane;
mod rules;
mod run;
mod schedule;
#[cfg(test)]
mod tests;
mod way;
mod word;

pub use frames::{Emitted, Frames, Leaving, Sink, Slice};

use crate::config::InterfaceId;
use crate::director::{Director, ParallelParts, Version};
use crate::output::Output;
use crate::time::Nanos;
use crate::track::{Passed, SHARDS};
use emit::{Emitter, Part};
use hands::Hands;
use lane::{Lane, Scratch};
use rayon::prelude::*;
use rules::Rules;
use run::{Context, ShardRun, Stretch};
use schedule::Scheduling;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use way::{Plan, source_is_good, way_back};
use word::LONGEST_RUN;

/// What batch does at a moment, for whoever takes the time: the engine has no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Headers are read and packets are sorted by flow.
    Classify,
    /// Connections are found, opened and moved on.
    Track,
    /// New connections get their servers, and frames are made meanwhile. FULLNAT: packets are followed, and the same.
    Schedule,
    /// Frames are made and given to the sink.
    Rewrite,
    /// Packets take the serial way.
    Serial,
    /// Nothing: the window is done.
    Done,
}

/// How packets were handled so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Packets that took the parallel way.
    pub parallel: u64,
    /// Packets that took the serial way.
    pub serial: u64,
    /// Windows given.
    pub windows: u64,
    /// Windows of which at least one packet took the serial way.
    pub mixed_windows: u64,
}

/// A director that takes packets by windows.
#[derive(Debug)]
pub struct Batch {
    director: Director,
    shortest_run: usize,
    worth_sharing: usize,
    longest_detour: usize,
    /// What packets in lane are, and as of which version of the director.
    plan: Option<(Version, Composition)>,
    lanes: Vec<Lane>,
    scratches: Vec<Scratch>,
    /// The number of each part's first frame in the window, and the number of all frames.
    starts: Vec<usize>,
    /// What became of packets, in the order of all lanes' items.
    found: Vec<AtomicU64>,
    runs: Vec<ShardRun>,
    handled: Handled,
    out: Output,
}

/// What takes packets in lane further.
#[derive(Debug)]
enum Composition {
    /// Nothing: there are none.
    Nothing,
    /// The Linux director's stages.
    Linux(Box<Plan>),
    /// Those of DPVS's FULLNAT.
    FullNat(Box<fullnat::Plan>),
}

impl Composition {
    fn of(director: &mut Director) -> Composition {
        let linux = |parts: ParallelParts<'_>| Plan::new(parts.host, parts.ipvs).map(|plan| Composition::Linux(Box::new(plan)));
        let composition = match director.dpvs() {
            Some(dpvs) => fullnat::Plan::new(dpvs).map(|plan| Composition::FullNat(Box::new(plan))),
            None => director.parallel_parts().and_then(linux),
        };
        composition.unwrap_or(Composition::Nothing)
    }
}

/// A run costs about this many serial packets: shorter ones are not worth it.
const SHORTEST_RUN: usize = 24;
/// A run of as many packets is worth other threads: to wake one takes longer than to follow some hundred packets.
const WORTH_SHARING: usize = 2048;
/// How many packets go the serial way before the parallel one is tried again, at most.
const LONGEST_DETOUR: usize = 8192;

impl Batch {
    /// A director as it is now, from here on by windows.
    pub fn new(director: Director) -> Batch {
        Batch {
            director,
            shortest_run: SHORTEST_RUN,
            worth_sharing: WORTH_SHARING,
            longest_detour: LONGEST_DETOUR,
            plan: None,
            lanes: Vec::new(),
            scratches: Vec::new(),
            starts: Vec::new(),
            found: Vec::new(),
            runs: vec![ShardRun::default(); SHARDS],
            handled: Handled::default(),
            out: Output::default(),
        }
    }

    /// Takes the parallel way for runs of at least that many packets, and shares those of `worth_sharing` and more among all
    /// threads. For tests: it changes nothing but speed.
    pub fn with_runs_of(mut self, packets: usize, worth_sharing: usize) -> Batch {
        self.shortest_run = packets.max(1);
        self.worth_sharing = worth_sharing;
        self.longest_detour = packets.clamp(1, LONGEST_DETOUR);
        self
    }

    /// The director.
    pub fn director(&self) -> &Director {
        &self.director
    }

    /// The director, to let time pass or to go on one by one.
    pub fn director_mut(&mut self) -> &mut Director {
        &mut self.director
    }

    /// The director, to keep.
    pub fn into_director(self) -> Director {
        self.director
    }

    /// How packets were handled so far.
    pub fn handled(&self) -> Handled {
        self.handled
    }

    /// Takes a window of frames in, as [`Director::receive`] would one by one, and returns how much left. `stage` is told what is
    /// done when.
    pub fn process<F: Frames, S: Sink>(&mut self, frames: &F, sink: &mut S, stage: &mut dyn FnMut(Stage)) -> Emitted {
        let before = self.handled;
        self.starts.clear();
        let mut total = 0;
        for part in 0..frames.parts() {
            self.starts.push(total);
            total += frames.part_len(part);
        }
        let mut emitted = Emitted::default();
        let mut at = 0;
        let mut classified = None;
        let mut detour = 1;
        let mut longest = LONGEST_RUN;
        while at < total {
            let mut until = total;
            if total - at >= self.shortest_run && !self.has_plan() {
                // A packet or two may make one: the first of all, or the answer of a neighbour.
                detour = (2 * detour).min(self.longest_detour);
                until = total.min(at + detour);
            } else if total - at >= self.shortest_run {
                let version = self.director.version();
                if classified != version {
                    stage(Stage::Classify);
                    self.classify(frames);
                    classified = version;
                }
                let end = self.run_end(frames, at..total.min(at.saturating_add(longest)));
                let mut done = 0;
                if end - at >= self.shortest_run {
                    done = self.run(frames, sink, at..end, &mut emitted, stage);
                    self.handled.parallel += done as u64;
                    at += done;
                    if at == end {
                        longest = longest.saturating_mul(4).min(LONGEST_RUN);
                        detour = 1;
                        continue;
                    }
                    longest = (4 * done).max(4 * self.shortest_run).min(LONGEST_RUN);
                }
                // What stopped the run seldom comes alone: the less it brought, the longer the next one is put off.
                detour = if done >= self.shortest_run { 1 } else { (2 * detour).min(self.longest_detour) };
                until = total.min(end.max(at) + 1).max(total.min(at + detour));
                if done > 0 || end - at >= self.shortest_run {
                    until = total.min(at + detour);
                }
            }
            stage(Stage::Serial);
            self.serial(frames, sink, at..until, &mut emitted);
            at = until;
        }
        self.handled.windows += 1;
        self.handled.mixed_windows += u64::from(self.handled.serial != before.serial);
        stage(Stage::Done);
        emitted
    }

    /// Makes sure that the plan is that of the director as it is; whether there is one and it may be used now.
    fn has_plan(&mut self) -> bool {
        let Some(version) = self.director.version() else { return false };
        let is_plain = match (self.director.dpvs().map(|dpvs| dpvs.is_plain()), self.director.parallel_parts()) {
            (Some(is_plain), _) => is_plain,
            (None, Some(parts)) => parts.ipvs.is_plain() && !parts.host.neighbours.is_full(),
            (None, None) => return false,
        };
        if self.plan.as_ref().is_none_or(|(known, _)| *known != version) {
            self.plan = Some((version, Composition::of(&mut self.director)));
            self.scratches.iter_mut().for_each(Scratch::forget);
        }
        is_plain && !matches!(&self.plan, None | Some((_, Composition::Nothing)))
    }

    /// Reads the headers of all frames of the window.
    fn classify<F: Frames>(&mut self, frames: &F) {
        match (&self.plan, self.director.parallel_parts().map(|parts| parts.host)) {
            (Some((_, Composition::Linux(plan))), Some(host)) => {
                let rules = Rules {
                    ports: &plan.ports,
                    ends: &plan.ends,
                    shards: SHARDS,
                    source_is_good: |source, on| source_is_good(host, source, on),
                    way_back: |client, on| way_back(host, client, on).map(|way| way.mtu),
                };
                fill(&mut self.lanes, &mut self.scratches, frames, &rules);
            }
            (Some((_, Composition::FullNat(plan))), _) => {
                // DPVS takes packets from anywhere.
                let (ports, ends) = (&plan.ports[..], &plan.ends);
                let rules = Rules { ports, ends, shards: 1, source_is_good: |_, _| true, way_back: |_, _| None };
                fill(&mut self.lanes, &mut self.scratches, frames, &rules);
            }
            _ => return,
        }
        let mut base = 0;
        for lane in &mut self.lanes {
            lane.base = base;
            base += lane.len;
        }
        if self.found.len() < base {
            self.found.resize_with(base, AtomicU64::default);
        }
    }

    /// How far a run can go at most: to the next frame that is not plain, to the next moment at which anything but connections
    /// may change, or to where time goes backwards.
    fn run_end<F: Frames>(&self, frames: &F, range: Range<usize>) -> usize {
        let due = match &self.plan {
            Some((_, Composition::FullNat(plan))) => self.director.next_due().min(plan.ways.until),
            _ => self.director.next_due(),
        };
        let shortest_timeout = match &self.plan {
            Some((_, Composition::Linux(plan))) => plan.shortest_timeout,
            // Connections that end do so in their place.
            _ => Nanos::NEVER,
        };
        let mut latest: Option<Nanos> = None;
        let mut limit = due;
        for (part, (lane, start)) in self.lanes.iter().zip(&self.starts).enumerate() {
            let len = frames.part_len(part);
            if start + len <= range.start {
                continue;
            }
            if *start >= range.end {
                break;
            }
            let first = range.start.max(*start);
            let other = lane.others.get(lane.others.partition_point(|number| start + (*number as usize) < first));
            let end = other.map_or(start + len, |number| start + *number as usize).min(range.end);
            // Frames in front of the first other one are plain, so they are arrivals in order of time.
            let time = |number: usize| frames.arrival(part, number - start).map_or(Nanos::NEVER, |arrival| arrival.time);
            if first < end {
                let begins = time(first);
                if latest.is_none() {
                    limit = due.min(begins + shortest_timeout);
                }
                if latest.is_some_and(|latest| begins < latest) {
                    return first;
                }
                let last = time(end - 1);
                if last >= limit {
                    return (first..end).find(|number| time(*number) >= limit).unwrap_or(first);
                }
                latest = Some(last);
            }
            if end < (start + len).min(range.end) {
                return end;
            }
        }
        range.end
    }

    /// Takes frames one by one.
    fn serial<F: Frames, S: Sink>(&mut self, frames: &F, sink: &mut S, range: Range<usize>, emitted: &mut Emitted) {
        let mut piece = sink.piece(*emitted);
        let mut part = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        for number in range {
            while self.starts.get(part + 1).is_some_and(|start| *start <= number) {
                part += 1;
            }
            let number = number - self.starts[part];
            let Some(arrival) = frames.arrival(part, number) else { continue };
            self.out.clear();
            let verdict = self.director.receive(arrival, &mut self.out);
            for frame in self.out.frames() {
                emitted.frames += 1;
                emitted.bytes += frame.bytes.len() as u64;
                sink.frame(&mut piece, Leaving::new(frame.bytes, &[], frame));
            }
            sink.verdict(&mut piece, part, number, verdict);
            self.handled.serial += 1;
        }
        sink.finish(&mut piece);
        sink.collect(piece);
    }

    /// Takes the parallel way; returns how many frames it took.
    fn run<F: Frames, S: Sink>(
        &mut self,
        frames: &F,
        sink: &mut S,
        range: Range<usize>,
        emitted: &mut Emitted,
        stage: &mut dyn FnMut(Stage),
    ) -> usize {
        let hands = Hands { alone: range.len() < self.worth_sharing };
        if let Some((_, Composition::FullNat(plan))) = &mut self.plan {
            let Some(director) = self.director.dpvs() else { return 0 };
            let (lanes, starts, found) = (&self.lanes[..], &self.starts[..], &self.found[..]);
            let stretch = fullnat::Stretch { frames, lanes, starts, range, found, hands };
            return fullnat::run(director, plan, &stretch, sink, emitted, stage);
        }
        let (Some((_, Composition::Linux(plan))), Some(director)) = (&mut self.plan, self.director.parallel_parts()) else {
            return 0;
        };
        stage(Stage::Track);
        plan.ways.learn(&plan.ends, director.ipvs);
        let found = &self.found[..];
        let context = Context {
            ends: &plan.ends,
            ways: &plan.ways,
            rules: director.ipvs.state_rules(),
            sloppy: plan.sloppy,
            counts: plan.ways.numbers().any(|service| director.ipvs.scheduler_looks_at_counts(service)),
            found,
            hands,
        };
        let mut stretch = Stretch { lanes: &self.lanes, starts: &self.starts, range };
        let done = run::track(director.ipvs, &stretch, &context, &mut self.runs);
        if done == 0 {
            return 0;
        }
        stretch.range.end = stretch.range.start + done;
        let mut events = run::events(&stretch, &context, &self.runs).into_iter();
        stage(Stage::Schedule);
        let part = |part| Part { frames, number: part, numbers: stretch.frames(part), lane: &self.lanes[part], found };
        let parts: Vec<Part<'_, F>> = stretch.parts().map(part).collect();
        let emitter = Emitter {
            host: director.host,
            ways: &plan.ways,
            copy_dont_fragment: director.ipvs.sysctls().vs.pmtu_disc,
            servers: director.ipvs.services.servers.len(),
        };
        let until = parts.last().and_then(Part::last).map_or(Nanos(0), |arrival| arrival.time);
        let mut scheduling = Scheduling::new(director.ipvs, &context, director.draws, &mut self.runs, until);
        if plan.ways.added.is_none() {
            // How much leaves depends on servers.
            events.by_ref().for_each(|events| scheduling.go_on(&events));
        }
        let measured = hands.map(0..parts.len(), |index| emitter.measure(&parts[index]));
        let shared: &S = sink;
        let mut pieces: Vec<Option<(S::Piece, Vec<Passed>)>> = measured.iter().map(|_| None).collect();
        let emitter = &emitter;
        hands.tasks(|tasks| {
            for ((part, measured), made) in parts.iter().zip(measured).zip(&mut pieces) {
                if let Some(events) = events.next() {
                    scheduling.go_on(&events);
                }
                let before = *emitted;
                // Its servers are chosen; while its frames are made those of the next part are.
                tasks.add(move || *made = Some(emitter.make(shared, shared.piece(before), part)));
                emitted.frames += measured.frames;
                emitted.bytes += measured.bytes;
            }
            scheduling.finish();
            stage(Stage::Rewrite);
        });
        for (piece, passed) in pieces.into_iter().flatten() {
            sink.collect(piece);
            director.ipvs.services.count(&passed);
        }
        done
    }
}

/// Fills a lane for every part of a window.
fn fill<F, G, W>(lanes: &mut Vec<Lane>, scratches: &mut Vec<Scratch>, frames: &F, rules: &Rules<'_, G, W>)
where
    F: Frames,
    G: Fn(IpAddr, InterfaceId) -> bool + Sync,
    W: Fn(IpAddr, InterfaceId) -> Option<u32> + Sync,
{
    lanes.resize_with(frames.parts(), Lane::default);
    // Kept from window to window, as many as there are threads.
    let free = Mutex::new(std::mem::take(scratches));
    lanes.par_iter_mut().enumerate().for_each(|(part, lane)| {
        let mut scratch = free.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        lane.fill(&mut scratch, frames.arrivals(part, 0..frames.part_len(part)), rules);
        if let Ok(mut free) = free.lock() {
            free.push(scratch);
        }
    });
    *scratches = free.into_inner().unwrap_or_default();
}
