//! Snapshot folders: no content of their files makes the reader panic. The first byte picks the file.
#![no_main]

const FILES: [&str; 9] = [
    "ipvsadm.rules",
    "ipvsadm-timeout.txt",
    "ip-addr.json",
    "ip-route.json",
    "ip6-route.json",
    "ip-neigh.json",
    "sysctl.txt",
    "uname.txt",
    "ipvsadm.txt",
];

libfuzzer_sys::fuzz_target!(|input: (u8, &str)| {
    let (pick, text) = input;
    let file = FILES[usize::from(pick) % FILES.len()];
    let _ = lvscheck::describe::read_snapshot(&[(file, text)]);
});
