//! Wireshark's dissector shows exactly the fields outside the encrypted part.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start programs and panic on failure"
)]

use std::process::Command;

use etherparse::PacketBuilder;

/// A capture file (pcap-savefile(5)) of raw IP packets with these UDP datagrams: source port, destination port,
/// payload.
fn capture(datagrams: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    // Microseconds, version 2.4, UTC, no accuracy, any length, LINKTYPE_RAW.
    for word in [0xA1B2_C3D4_u32, 0x0004_0002, 0, 0, 65_535, 101] {
        file.extend(word.to_le_bytes());
    }
    for (from, to, payload) in datagrams {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(*from, *to)
            .write(&mut packet, payload)
            .unwrap();
        let length = u32::try_from(packet.len()).unwrap();
        for word in [0, 0, length, length] {
            file.extend(word.to_le_bytes());
        }
        file.extend(packet);
    }
    file
}

#[test]
fn wireshark_names_the_fields_outside_the_encrypted_part() {
    if Command::new("tshark").arg("--version").output().is_err() {
        println!("skipped: tshark is not installed (apt install tshark)");
        return;
    }
    let bytes = |length: usize| (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<u8>>();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (knock, reply) = (bytes(291), bytes(124));
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("knocks.pcap");
    let datagrams = [
        (4000, 62201, knock.clone()),
        (62201, 4000, reply.clone()),
        (4000, 62201, bytes(100)),
        (4000, 53, bytes(250)),
    ];
    std::fs::write(&file, capture(&datagrams)).unwrap();
    let fields = ["hint", "nonce", "sealed", "aead_tag", "tag"];
    let output = Command::new("tshark")
        .args(["-X", "lua_script:contrib/spa-knock.lua", "-n", "-T", "fields", "-r"])
        .arg(&file)
        .args(fields.iter().flat_map(|field| ["-e".to_owned(), format!("spa_knock.{field}")]))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("Lua: "), "{stderr}");
    let parts = |bytes: &[u8], cuts: &[usize]| {
        let ends = cuts.iter().skip(1).chain([&bytes.len()]).copied().collect::<Vec<_>>();
        cuts.iter().zip(ends).map(|(start, end)| hex(&bytes[*start..end])).collect::<Vec<_>>().join("\t")
    };
    // Offsets from sections 3 and 4 of the protocol: hint, nonce, ciphertext, AEAD tag, tag. A reply has no hint and no
    // tag.
    let knock = parts(&knock, &[0, 8, 20, 243, 259]);
    let reply = format!("\t{}\t", parts(&reply, &[0, 12, 108]));
    let lines: Vec<_> = [knock.as_str(), &reply, "\t\t\t\t", "\t\t\t\t"].map(str::trim_end).to_vec();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.lines().map(str::trim_end).collect::<Vec<_>>(), lines);
}
