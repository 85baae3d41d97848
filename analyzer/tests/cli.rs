//! The command as people use it: what it prints, and how it ends. Snapshots are prose that people read: review them so.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The root of the repository: commands run there, so that names in what they print are short.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn lvscheck(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lvscheck"))
        .args(args)
        .current_dir(root())
        .env_remove("GITHUB_ACTIONS")
        .env_remove("LVSCHECK_FORMAT")
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

/// Standard output, standard error and the status, as one text, with what varies from run to run masked.
fn shown(output: &Output, folder: Option<&TempDir>) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !errors.is_empty() {
        text.push_str("--- standard error\n");
        text.push_str(&errors);
    }
    text.push_str(&format!("--- exit status {}\n", output.status.code().unwrap()));
    if let Some(folder) = folder {
        text = text.replace(&*folder.path().to_string_lossy(), "FOLDER");
    }
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines() {
        let speed = line.ends_with(" frames/s") || line.contains("\"seconds\":") || line.contains("\"frames_per_second\":");
        lines.push(if speed { "  (speed)" } else { line });
    }
    lines.join("\n")
}

fn status(args: &[&str]) -> i32 {
    lvscheck(args).status.code().unwrap()
}

const HTTP: &str = "fixtures/http.pcap";

#[test]
fn a_bare_capture_in_every_mode() {
    for mode in ["dr", "nat", "tunnel", "fullnat"] {
        let output = lvscheck(&["replay", HTTP, "--mode", mode]);
        insta::assert_snapshot!(format!("bare_{mode}"), shown(&output, None));
    }
}

#[test]
fn the_result_as_json() {
    let output = lvscheck(&["replay", HTTP, "--mode", "nat", "--format", "json"]);
    insta::assert_snapshot!(shown(&output, None));
}

#[test]
fn the_connection_table() {
    let output = lvscheck(&["replay", HTTP, "--mode", "nat", "--connections", "--linger", "0"]);
    let text = shown(&output, None);
    let start = text.find("Connections").unwrap();
    insta::assert_snapshot!(text[start..].lines().take(7).collect::<Vec<_>>().join("\n"), @r"
    Connections
      IPVS connection entries
      pro expire state       source             virtual            destination
      TCP 01:59  TIME_WAIT   200.200.200.2:44182 200.200.200.1:80   198.51.100.13:80
      TCP 01:59  TIME_WAIT   200.200.200.2:44186 200.200.200.1:80   198.51.100.12:80
      TCP 01:59  TIME_WAIT   200.200.200.2:44188 200.200.200.1:80   198.51.100.11:80
      TCP 02:00  TIME_WAIT   200.200.200.2:44200 200.200.200.1:80   198.51.100.13:80
    ");
}

#[test]
fn captures_at_the_directors_ports_conform() {
    for (captures, name) in [
        (&["fixtures/deployments/dr/director-eth0.pcap"][..], "dr"),
        (&["fixtures/deployments/tun-ipip/director-eth0.pcap"], "tun-ipip"),
        (&["fixtures/deployments/nat/director-eth0.pcap", "fixtures/deployments/nat/director-eth1.pcap"], "nat"),
    ] {
        let director = format!("fixtures/deployments/{name}/director");
        let mut args = vec!["replay"];
        args.extend(captures);
        args.extend(["-c", &director, "--golden", "same"]);
        assert_eq!(status(&args), 0, "{name}");
    }
}

#[test]
fn wrong_use_is_told_what_where_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    };
    let capture = std::fs::read(root().join(HTTP)).unwrap();
    let mut lying = capture.clone();
    lying[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    let rules = "-A -t 200.200.200.1:80 -s rr\n".to_owned()
        + &(1..6).map(|n| format!("-a -t 200.200.200.1:80 -r 10.0.0.1{n}:80 -g\n")).collect::<String>()
        + "-a -t 200.200.200.1:80 -r 10.0.0.16:80 -g --wieght 3\n";
    let (rules, empty) = (file("rules", rules.as_bytes()), file("empty.pcap", b""));
    let (text, cut) = (file("text.pcap", b"this is no capture\n"), file("cut.pcap", &capture[..300]));
    let lying = file("lying.pcap", &lying);
    let out = folder.path().join("out.pcap").to_string_lossy().into_owned();
    for (name, args) in [
        ("unknown_scheduler", &["replay", HTTP, "--mode", "dr", "--vip", "200.200.200.1:80", "--scheduler", "wrrr"][..]),
        ("other_port_under_dr", &["replay", HTTP, "--mode", "dr", "--vip", "200.200.200.1:80", "--rs", "10.0.0.11:8080"]),
        ("typo_in_line_7", &["replay", HTTP, "-c", &rules]),
        ("missing_capture", &["replay", "nowhere.pcap", "--mode", "dr", "-w", &out]),
        ("empty_file", &["replay", &empty, "--mode", "dr", "-w", &out]),
        ("text_file", &["replay", &text, "--mode", "dr", "-w", &out]),
        ("length_of_4_gib", &["replay", &lying, "--mode", "dr", "-w", &out]),
        ("missing_golden", &["replay", HTTP, "--mode", "dr", "--golden", "nowhere.pcap"]),
        ("unknown_field", &["replay", HTTP, "--mode", "dr", "--golden", HTTP, "--ignore", "ip.tll"]),
        ("rules_without_configuration", &["replay", HTTP, "--mode", "rules"]),
        ("no_such_cases", &["test", "nowhere"]),
    ] {
        let output = lvscheck(args);
        insta::assert_snapshot!(format!("wrong_{name}"), shown(&output, Some(&folder)));
        assert!(!Path::new(&out).exists(), "{name} left an output");
    }
    // What came before the cut is used.
    let output = lvscheck(&["replay", &cut, "--mode", "dr", "-q"]);
    insta::assert_snapshot!("wrong_cut_capture", shown(&output, Some(&folder)));
}

#[test]
fn nothing_to_check_is_not_green() {
    assert_eq!(status(&["replay", HTTP, "--mode", "dr", "--vip", "192.0.2.1:80"]), 4);
}

/// A golden of our own, changed in one way each, is refused, and the message points at the change.
#[test]
fn a_changed_golden_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("golden.pcap");
    let name = golden.to_string_lossy().into_owned();
    assert_eq!(status(&["replay", HTTP, "--mode", "nat", "-w", &name]), 0);
    assert_eq!(status(&["replay", HTTP, "--mode", "nat", "--golden", &name]), 0);
    let whole = std::fs::read(&golden).unwrap();
    let mut records = Vec::new();
    let mut at = 24;
    while at < whole.len() {
        let len = u32::from_le_bytes(whole[at + 8..at + 12].try_into().unwrap()) as usize;
        records.push(whole[at..at + 16 + len].to_vec());
        at += 16 + len;
    }
    let with = |records: &[Vec<u8>]| {
        let mut bytes = whole[..24].to_vec();
        bytes.extend(records.concat());
        std::fs::write(&golden, bytes).unwrap();
        let output = lvscheck(&["replay", HTTP, "--mode", "nat", "--golden", &name, "-q"]);
        assert_eq!(output.status.code(), Some(1));
        shown(&output, Some(&folder))
    };
    let mut changed = records.clone();
    changed[9][16 + 22] ^= 1;
    insta::assert_snapshot!("golden_changed", with(&changed));
    // The last record is cut, as when a recording was stopped too early: that is said.
    let mut cut = records.clone();
    cut.last_mut().unwrap().pop();
    insta::assert_snapshot!("golden_cut", with(&cut));
    let mut dropped = records.clone();
    dropped.remove(9);
    insta::assert_snapshot!("golden_dropped", with(&dropped));
    let mut doubled = records.clone();
    doubled.insert(9, records[9].clone());
    insta::assert_snapshot!("golden_duplicated", with(&doubled));
    let mut moved = records.clone();
    let frame = moved.remove(9);
    moved.insert(20, frame);
    insta::assert_snapshot!("golden_moved", with(&moved));
}

/// `--quiet` prints what went wrong, so nothing at all when nothing did.
#[test]
fn quiet_says_nothing_when_all_is_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (traffic, director, golden, cases) = (path("traffic.pcap"), path("director"), path("golden.pcap"), path("cases"));
    for args in [
        &["generate", &traffic, "--flows", "10", "--director", &director][..],
        &["replay", &traffic, "-c", &director, "-w", &golden],
        &["replay", &traffic, "-c", &director, "--golden", &golden],
        &["replay", HTTP, "--mode", "nat"],
        &["diff", &golden, &golden],
        &["test", &cases, "--new", HTTP, "--name", "http", "--mode", "nat"],
        &["test", &cases],
        &["test", &cases, "-v"],
        &["throughput", HTTP, "--mode", "dr", "--runs", "1", "--threads", "1"],
    ] {
        let output = lvscheck(&[args, &["-q"]].concat());
        assert_eq!(shown(&output, Some(&folder)), "--- exit status 0", "{args:?}");
    }
    // What a program reads is whole.
    let output = lvscheck(&["diff", &golden, &golden, "-q", "--format", "json"]);
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok());
    let output = lvscheck(&["diff", &traffic, &golden, "-q"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stdout.is_empty());
}

/// The description that `generate` writes leaves nothing to be guessed.
#[test]
fn a_generated_director_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (traffic, director) = (path("traffic.pcap"), path("director"));
    assert_eq!(status(&["generate", &traffic, "--flows", "8", "--packets", "80", "--director", &director]), 0);
    let output = lvscheck(&["replay", &traffic, "-c", &director]);
    let text = shown(&output, Some(&folder));
    assert!(text.contains("described by FOLDER/director") && !text.contains("assumed"), "{text}");
}

#[test]
fn cases_are_made_tested_and_blessed() {
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().to_string_lossy().into_owned();
    let made = lvscheck(&["test", &cases, "--new", HTTP, "--name", "http", "--mode", "nat"]);
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made, Some(&folder)));
    insta::assert_snapshot!("test_conforms", shown(&lvscheck(&["test", &cases]), Some(&folder)));

    let golden = folder.path().join("http/out.pcapng");
    let mut bytes = std::fs::read(&golden).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&golden, bytes).unwrap();
    let junit = folder.path().join("junit.xml");
    let output = lvscheck(&["test", &cases, "--junit", &junit.to_string_lossy()]);
    insta::assert_snapshot!("test_differs", shown(&output, Some(&folder)));
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("failures=\"1\"") && xml.contains("differs"), "{xml}");

    assert_eq!(status(&["test", &cases, "--bless"]), 2, "blessing needs a terminal or --yes");
    assert_eq!(status(&["test", &cases, "--bless", "--yes"]), 0);
    assert_eq!(status(&["test", &cases]), 0);

    std::fs::write(folder.path().join("http/http.pcap"), b"no capture at all").unwrap();
    let output = lvscheck(&["test", &cases]);
    insta::assert_snapshot!("test_could_not_run", shown(&output, Some(&folder)));
}

#[test]
fn diff_of_two_captures() {
    let output = lvscheck(&["diff", HTTP, "fixtures/deployments/nat/client-eth0.pcap"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output, None));
    let output = lvscheck(&["diff", HTTP, "fixtures/deployments/nat/director-eth0.pcap", "--ignore", "eth.src"]);
    assert!(matches!(output.status.code(), Some(0 | 1)));
}

#[test]
fn generated_directors_serve_jumbo_frames() {
    for mode in ["dr", "nat", "tunnel", "fullnat"] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (capture, director) = (path("jumbo.pcap"), path("director"));
        let order = ["--flows", "10", "--packets", "100", "--size", "9018", "--mode", mode, "--director", &director];
        assert!(lvscheck(&[&["-q", "generate", &capture], &order[..]].concat()).status.success());
        let output = lvscheck(&["replay", &capture, "-c", &director, "--format", "json"]);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["services"][0]["counters"]["in_packets"], 100, "{mode} {}", shown(&output, None));
    }
}

#[test]
fn diff_of_two_large_captures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (one, other) = (path("one.pcap"), path("other.pcap"));
    assert!(lvscheck(&["-q", "generate", &one, "--flows", "1000", "--packets", "80000", "--size", "64"]).status.success());
    let mut bytes = std::fs::read(&one).unwrap();
    // Records of 76 bytes: one is gone, later one is changed.
    bytes.drain(24 + 39_999 * 76..24 + 40_000 * 76);
    bytes[24 + 69_998 * 76 + 16 + 53] ^= 1;
    std::fs::write(&other, bytes).unwrap();
    let output = lvscheck(&["diff", &one, &other, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", shown(&output, None));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let comparison = &result["comparison"];
    assert_eq!(
        (comparison["equal"].as_u64(), &comparison["counts"]),
        (Some(79_998), &serde_json::json!({"field": 1, "missing": 1}))
    );
    assert_eq!((&comparison["findings"][0]["expected"], &comparison["findings"][1]["actual"]), (&40_000.into(), &69_999.into()));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lvscheck"))
        .args(["replay", HTTP, "--mode", "dr", "--format", "json"])
        .current_dir(root())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What can be read only once gives what the file gives: small and large, plain and compressed, with a director that takes a pass
/// of its own to be inferred.
#[test]
fn standard_input_is_a_capture_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let large = named("large.pcap");
    let made = lvscheck(&["-q", "generate", &large, "--packets", "80000", "--flows", "8000"]);
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made, None));
    let compressed = named("large.pcap.zst");
    std::fs::write(&compressed, zstd::encode_all(std::fs::File::open(&large).unwrap(), 1).unwrap()).unwrap();
    let http = root().join(HTTP).to_string_lossy().into_owned();
    for capture in [http.as_str(), &large, &compressed] {
        let (expected, found) = (named("expected.pcap"), named("found.pcap"));
        let output = lvscheck(&["-q", "replay", capture, "--mode", "dr", "-w", &expected]);
        let status = output.status.code();
        let output = Command::new(env!("CARGO_BIN_EXE_lvscheck"))
            .args(["-q", "replay", "-", "--mode", "dr", "-w", &found])
            .stdin(std::fs::File::open(capture).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), status, "{capture}: {}", shown(&output, None));
        assert!(std::fs::read(&expected).unwrap() == std::fs::read(&found).unwrap(), "{capture}");
    }
}

/// Several captures, one of them compressed and from standard input.
#[test]
fn standard_input_is_merged_with_other_captures() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (first, second, compressed) = (named("first.pcap"), named("second.pcap"), named("first.pcap.zst"));
    for capture in [&first, &second] {
        let made = lvscheck(&["-q", "generate", capture, "--packets", "80000", "--flows", "8000"]);
        assert_eq!(made.status.code(), Some(0), "{}", shown(&made, None));
    }
    std::fs::write(&compressed, zstd::encode_all(std::fs::File::open(&first).unwrap(), 1).unwrap()).unwrap();
    let (expected, found) = (named("expected.pcapng"), named("found.pcapng"));
    assert_eq!(status(&["-q", "replay", &first, &second, "--mode", "dr", "-w", &expected]), 0);
    let output = Command::new(env!("CARGO_BIN_EXE_lvscheck"))
        .args(["-q", "replay", "-", &second, "--mode", "dr", "-w", &found])
        .stdin(std::fs::File::open(&compressed).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output, None));
    assert!(std::fs::read(&expected).unwrap() == std::fs::read(&found).unwrap());
}

/// A golden from standard input, compressed too, is as good as a file: where it conforms, large captures need no care.
#[test]
fn a_golden_from_standard_input_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (capture, plain, annotated) = (named("large.pcap"), named("golden.pcap"), named("golden.pcapng"));
    let made = lvscheck(&["-q", "generate", &capture, "--packets", "80000", "--flows", "8000"]);
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made, None));
    for golden in [&plain, &annotated] {
        lvscheck(&["-q", "replay", &capture, "--mode", "dr", "-w", golden]);
        let compressed = format!("{golden}.zst");
        std::fs::write(&compressed, zstd::encode_all(std::fs::File::open(golden).unwrap(), 1).unwrap()).unwrap();
        for golden in [golden, &compressed] {
            let output = Command::new(env!("CARGO_BIN_EXE_lvscheck"))
                .args(["-v", "replay", &capture, "--mode", "dr", "--golden", "-"])
                .stdin(std::fs::File::open(golden).unwrap())
                .output()
                .unwrap();
            let text = shown(&output, None);
            assert!(output.status.code() == Some(0) && text.contains(" packets one by one"), "{golden}: {text}");
        }
    }
}

/// What goes to a pipe can't be taken back: when care is needed at the very end, all of it must still come once.
#[test]
fn standard_output_gets_what_a_file_gets() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (plain, back) = (named("plain.pcap"), named("back.pcap"));
    let made = lvscheck(&["-q", "generate", &plain, "--packets", "80000", "--flows", "8000"]);
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made, None));
    // The last frame gets the time of the first.
    let mut bytes = std::fs::read(&plain).unwrap();
    let (mut last, mut at) = (24, 24);
    while at < bytes.len() {
        last = at;
        at += 16 + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    bytes.copy_within(24..32, last);
    std::fs::write(&back, bytes).unwrap();
    for capture in [&plain, &back] {
        let written = named("written.pcap");
        lvscheck(&["-q", "replay", capture, "--mode", "dr", "-w", &written]);
        let output = lvscheck(&["-q", "replay", capture, "--mode", "dr", "-w", "-"]);
        assert!(std::fs::read(&written).unwrap() == output.stdout, "{capture}");
    }
}

/// A capture from a pipe, and its pcapng to one.
#[cfg(unix)]
#[test]
fn a_named_pipe_gets_the_pcapng_that_a_file_gets() {
    let folder = tempfile::tempdir().unwrap();
    let named = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (capture, written, pipe) = (named("large.pcap"), named("written.pcapng"), named("pipe.pcapng"));
    let made = lvscheck(&["-q", "generate", &capture, "--packets", "80000", "--flows", "8000"]);
    assert_eq!(made.status.code(), Some(0), "{}", shown(&made, None));
    lvscheck(&["-q", "replay", &capture, "--mode", "nat", "-w", &written]);
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reading = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    let replay = Command::new(env!("CARGO_BIN_EXE_lvscheck"))
        .args(["-q", "replay", "-", "--mode", "nat", "-w", &pipe])
        .stdin(std::fs::File::open(&capture).unwrap())
        .output()
        .unwrap();
    assert_eq!(replay.status.code(), Some(0), "{}", shown(&replay, None));
    assert!(std::fs::read(&written).unwrap() == reading.join().unwrap());
}

/// Times are this machine's: only what is measured is checked.
#[test]
fn throughput_of_a_capture_and_of_generated_traffic() {
    let output = lvscheck(&["throughput", HTTP, "--mode", "dr,fullnat", "--runs", "2", "--threads", "1,2"]);
    let text = shown(&output, None);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for word in ["read", "classify", "track", "schedule", "rewrite", "serial", "100 GbE", "careful path", "fullnat"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let page_name = page.to_string_lossy().into_owned();
    let asked =
        ["throughput", "--packets", "60000", "--size", "64,128", "--mode", "dr,tunnel,fullnat", "--task", "forward,golden"];
    let rest = ["--runs", "1", "--threads", "2", "--format", "json", "--report", page_name.as_str()];
    let output = lvscheck(&[&asked[..], &rest[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output, None));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = result["series"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 3 * 2);
    for row in rows {
        assert_eq!(row["packets"], 60_000);
        assert_eq!(row["path"], "fast", "{row}");
    }
    assert!(std::fs::read_to_string(page).unwrap().contains("128-byte frames"));
    assert_eq!(status(&["throughput", "-"]), 2);
    assert_eq!(status(&["replay", HTTP, "--threads", "1,2"]), 2);
}
