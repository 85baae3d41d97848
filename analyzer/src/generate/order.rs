//! In which order the packets of many flows follow each other: from a packet's number to its flow and its place in the flow,
//! without a table, so that any part of the traffic can be made alone and in parallel.

use super::mix::scramble;
use std::ops::Range;

/// How the flows that live at the same time take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Turns {
    /// One packet of each flow, then again from the first.
    #[default]
    RoundRobin,
    /// One packet of each flow a round, in another random order each round.
    Random,
}

/// One packet's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The flow, from 0.
    pub flow: u64,
    /// The packet within its flow, from 0.
    pub step: u64,
    /// How many packets this flow has in all.
    pub of: u64,
}

/// The order of all packets. Flows live in generations of `concurrent`: when one generation has sent all, the next starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    flows: u64,
    packets: u64,
    concurrent: u64,
    turns: Turns,
    seed: u64,
}

impl Order {
    /// `flows` is at least 1 and at most `packets`; `concurrent` is at least 1.
    pub fn new(flows: u64, packets: u64, concurrent: u64, turns: Turns, seed: u64) -> Order {
        Order { flows, packets, concurrent: concurrent.min(flows), turns, seed }
    }

    /// Packets of every flow, and how many of the first flows have one more.
    fn shares(&self) -> (u64, u64) {
        (self.packets / self.flows, self.packets % self.flows)
    }

    /// The first packet number of a generation.
    fn start_of(&self, generation: u64) -> u64 {
        let (each, more) = self.shares();
        let flows_before = (generation * self.concurrent).min(self.flows);
        flows_before * each + flows_before.min(more)
    }

    /// The places of a range of packet numbers, in order.
    pub fn places(&self, range: Range<u64>) -> impl Iterator<Item = Place> + use<> {
        let order = *self;
        let mut turn = order.turn_at(range.start);
        (range.start..range.end.min(order.packets)).map(move |_| {
            let place = turn.place(&order);
            turn.step_on(&order);
            place
        })
    }

    /// Where a packet number stands.
    fn turn_at(&self, packet: u64) -> Turn {
        // Generations that have one packet more a flow come first, so the generation is found by dividing twice.
        let (each, more) = self.shares();
        let with_more = self.concurrent * (each + 1);
        let full = more / self.concurrent;
        let generation = if packet < full * with_more {
            packet / with_more
        } else {
            let mixed_end = self.start_of(full + 1);
            if packet < mixed_end { full } else { full + 1 + (packet - mixed_end) / (self.concurrent * each).max(1) }
        };
        let mut turn = Turn::first_of(self, generation);
        let within = packet - self.start_of(generation);
        turn.round = (within / turn.members).min(each);
        turn.slot = within - turn.round * turn.members;
        turn
    }
}

/// A moment in the order: whose turn it is.
#[derive(Clone, Copy, Debug)]
struct Turn {
    generation: u64,
    /// Flows of this generation, and how many of them have one packet more.
    members: u64,
    members_with_more: u64,
    round: u64,
    slot: u64,
}

impl Turn {
    fn first_of(order: &Order, generation: u64) -> Turn {
        let (_, more) = order.shares();
        let first = (generation * order.concurrent).min(order.flows);
        let members = order.concurrent.min(order.flows - first).max(1);
        Turn { generation, members, members_with_more: more.saturating_sub(first).min(members), round: 0, slot: 0 }
    }

    /// How many flows take part in the current round: the last one is of those that have a packet more.
    fn in_round(&self, order: &Order) -> u64 {
        if self.round < order.shares().0 { self.members } else { self.members_with_more }
    }

    fn place(&self, order: &Order) -> Place {
        let slot = match order.turns {
            Turns::RoundRobin => self.slot,
            Turns::Random => {
                let key = scramble(order.seed ^ scramble(self.generation << 32 ^ self.round));
                permute(self.slot, self.in_round(order), key)
            }
        };
        let of = order.shares().0 + u64::from(slot < self.members_with_more);
        Place { flow: self.generation * order.concurrent + slot, step: self.round, of }
    }

    fn step_on(&mut self, order: &Order) {
        self.slot += 1;
        if self.slot < self.in_round(order) {
            return;
        }
        self.slot = 0;
        self.round += 1;
        let rounds = order.shares().0 + u64::from(self.members_with_more > 0);
        if self.round == rounds {
            *self = Turn::first_of(order, self.generation + 1);
        }
    }
}

/// A random permutation of `0..size`: a Feistel network over the next even number of bits, walked until it falls inside.
fn permute(value: u64, size: u64, key: u64) -> u64 {
    if size < 2 {
        return value;
    }
    let half = (64 - (size - 1).leading_zeros()).div_ceil(2);
    let mask = (1 << half) - 1;
    let mut value = value;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4 {
            (left, right) = (right, left ^ (scramble(right ^ key.rotate_left(round * 16)) & mask));
        }
        value = left << half | right;
        if value < size {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_robin_visits_each_flow_before_any_flow_again() {
        let order = Order::new(3, 7, 3, Turns::RoundRobin, 0);
        let places: Vec<(u64, u64)> = order.places(0..7).map(|place| (place.flow, place.step)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2)]);
    }

    #[test]
    fn one_at_a_time_is_sequential() {
        let order = Order::new(2, 5, 1, Turns::RoundRobin, 0);
        let places: Vec<(u64, u64)> = order.places(0..5).map(|place| (place.flow, place.step)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
    }

    proptest! {
        #[test]
        fn every_flow_sends_all_its_packets_in_order_wherever_the_range_is_cut(
            flows in 1_u64..40, extra in 0_u64..200, concurrent in 1_u64..50, random: bool, seed: u64, cut in 0_u64..240,
        ) {
            let packets = flows + extra;
            let turns = if random { Turns::Random } else { Turns::RoundRobin };
            let order = Order::new(flows, packets, concurrent, turns, seed);
            let whole: Vec<Place> = order.places(0..packets).collect();
            let mut next = vec![0; flows as usize];
            for place in &whole {
                prop_assert_eq!(place.step, next[place.flow as usize]);
                next[place.flow as usize] += 1;
            }
            for place in &whole {
                prop_assert_eq!(place.of, next[place.flow as usize]);
            }
            prop_assert!(next.iter().all(|count| (packets / flows..=packets / flows + 1).contains(count)));
            let cut = cut.min(packets);
            let parts: Vec<Place> = order.places(0..cut).chain(order.places(cut..packets)).collect();
            prop_assert_eq!(parts, whole);
        }
    }
}
