//! Compares spa-knock with fwknop, knockd and letmein: in the same two network namespaces, one after the other, in one
//! run. `scripts/compare` builds and installs everything and starts this. Needs root.

#[path = "../../../tests/net/namespace.rs"]
#[allow(dead_code, reason = "the tests need more of a namespace")]
mod namespace;

mod floods;
mod frames;
mod fwknop;
mod knockd;
mod lab;
mod layout;
mod letmein;
mod machine;
mod many_clients;
mod memory;
mod page;
mod peer;
mod plots;
mod programs;
mod record;
mod replays;
mod results;
mod run;
mod sender;
mod server;
mod spa_knock;
mod targets;
mod times;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use peer::Peer;
use results::Results;

const USAGE: &str = "usage: peers measure DIRECTORY [--quick] [--only POINT] [--tool NAME] [--rate N]\n       peers page DIRECTORY";
const POINTS: [&str; 7] = ["times", "bare", "floods", "memory", "clients", "replays", "kills"];

/// What the command line asks for.
#[derive(Default)]
struct Request {
    quick: bool,
    only: Option<String>,
    tool: Option<String>,
    rate: Option<u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(command), Some(folder)) = (args.first(), args.get(1)) else { return usage() };
    let folder = Path::new(folder);
    let Some(request) = Request::read(&args[2..]) else { return usage() };
    match command.as_str() {
        "measure" => {
            if !namespace_is_possible() {
                eprintln!("peers: needs root");
                return ExitCode::FAILURE;
            }
            let results = run::measure(&request, peers());
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join("results.json"), serde_json::to_string_pretty(&results).unwrap() + "\n")
                .unwrap();
            write_page(folder);
            if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        "page" => {
            write_page(folder);
            ExitCode::SUCCESS
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}\nPOINT: {}", POINTS.join(", "));
    ExitCode::from(2)
}

fn namespace_is_possible() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes the page and its pictures from the numbers.
fn write_page(folder: &Path) {
    let text = fs::read_to_string(folder.join("results.json")).unwrap();
    let results: Results = serde_json::from_str(&text).unwrap();
    plots::draw(folder, &results);
    fs::write(folder.join("how-it-compares.md"), page::text(&results, &peers())).unwrap();
}

/// Every tool in every mode, in the order of the page.
fn peers() -> Vec<&'static dyn Peer> {
    let mut peers: Vec<&'static dyn Peer> = Vec::new();
    peers.extend(spa_knock::MODES.iter().map(|mode| mode as &dyn Peer));
    peers.extend(letmein::TRANSPORTS.iter().map(|transport| transport as &dyn Peer));
    peers.push(&fwknop::Fwknop);
    peers.push(&knockd::Knockd);
    peers
}

impl Request {
    fn read(args: &[String]) -> Option<Self> {
        let mut request = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => request.quick = true,
                "--only" => {
                    request.only = Some(args.next().filter(|point| POINTS.contains(&point.as_str()))?.clone())
                }
                "--tool" => request.tool = Some(args.next()?.clone()),
                "--rate" => request.rate = Some(args.next()?.parse().ok()?),
                _ => return None,
            }
        }
        Some(request)
    }
}
