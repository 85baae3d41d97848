//! How fast the engine is: its parts by themselves, and a director at work.

mod batch;
mod parts;
mod traffic;

fn main() {
    let mut criterion = criterion::Criterion::default().configure_from_args();
    parts::all(&mut criterion);
    batch::all(&mut criterion);
    criterion.final_summary();
}
