//! The clients in other languages (`ports/`), as programs that the tests run.
//!
//! Python and JavaScript are always tested; Go and Java, whose compilers are large, only with `SPA_KNOCK_FULL=1`. A missing
//! toolchain is a failure: `scripts/test` installs it.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where Debian installs the sources of Go modules.
const GO_SOURCES: &str = "/usr/share/gocode/src/golang.org/x";

/// A language that has a client in `ports/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Python,
    JavaScript,
    Go,
    Java,
}

impl Language {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Python, Self::JavaScript, Self::Go, Self::Java];

    /// Whether this run tests it; prints a line if not.
    pub(crate) fn is_tested(self) -> bool {
        let is_light = matches!(self, Self::Python | Self::JavaScript);
        let tested = is_light || std::env::var_os("SPA_KNOCK_FULL").is_some_and(|value| value == "1");
        if !tested {
            println!("skipped: the {self:?} client is tested only by scripts/test --full");
        }
        tested
    }

    /// The files of the library. Programs embed these; each is short.
    pub(crate) const fn library(self) -> &'static [&'static str] {
        match self {
            Self::Python => &["python/spa_knock.py"],
            Self::JavaScript => &["node/spa-knock.mjs"],
            Self::Go => &["go/spaknock.go", "go/knock.go"],
            Self::Java => &["java/SpaKnock.java", "java/SpaKnockClient.java"],
        }
    }

    /// The command lines that check the style of the code and compare it with the vectors.
    pub(crate) fn checks(self) -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let python = python();
        match self {
            Self::Python => vec![
                words(&format!("{python} -W error -m py_compile python/spa_knock.py python/test_vectors.py")),
                words(&format!("{python} -W error python/test_vectors.py")),
            ],
            Self::JavaScript => vec![
                words("node --check node/spa-knock.mjs"),
                words("node --check node/test-vectors.mjs"),
                words("node node/test-vectors.mjs"),
            ],
            Self::Go => {
                let modules = go_modules().display().to_string();
                vec![
                    // gofmt prints the names of files that it would change, and succeeds.
                    shell("! gofmt -l go | grep ."),
                    shell(&format!("cd go && go vet -modfile={modules} ./...")),
                    shell(&format!("cd go && go test -modfile={modules} -count=1 ./...")),
                ]
            }
            Self::Java => vec![words(&format!(
                "java -cp {} spaknock.TestVectors {}",
                java_classes().display(),
                env!("CARGO_MANIFEST_DIR")
            ))],
        }
    }

    /// The words that begin the client's command line.
    pub(crate) fn client(self) -> Vec<String> {
        match self {
            Self::Python => vec![python().to_owned(), path("python/spa_knock.py")],
            Self::JavaScript => vec!["node".to_owned(), path("node/spa-knock.mjs")],
            Self::Go => vec![go_program().display().to_string()],
            Self::Java => {
                let classes = java_classes().display().to_string();
                ["java", "-cp", &classes, "spaknock.SpaKnockClient"].map(str::to_owned).to_vec()
            }
        }
    }
}

impl Language {
    /// The command that runs an example in a folder with a copy of the library.
    pub(crate) fn example(self, file: &Path) -> Command {
        let mut words = match self {
            Self::Python => vec![python().to_owned()],
            Self::JavaScript => vec!["node".to_owned()],
            Self::Go => {
                vec!["go".to_owned(), "run".to_owned(), format!("-modfile={}", go_modules().display())]
            }
            Self::Java => vec!["java".to_owned(), "-cp".to_owned(), java_classes().display().to_string()],
        };
        words.push(file.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        prepare(&mut command);
        if self == Self::Go {
            command.current_dir(path("go"));
        }
        command
    }
}

/// The path of a file in `ports/`.
pub(crate) fn path(file: &str) -> String {
    format!("{}/ports/{file}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command line in `ports/`, which must succeed, and returns what it printed.
pub(crate) fn run(words: &[String]) -> String {
    let (program, args) = words.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(path(""));
    prepare(&mut command);
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: scripts/test installs what is missing"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}:\n{text}");
    text
}

/// Nothing is written into the source, and Go does not look for another toolchain.
fn prepare(command: &mut Command) {
    command
        .envs([("PYTHONDONTWRITEBYTECODE", "1"), ("GOFLAGS", "-mod=mod"), ("GOTOOLCHAIN", "local")])
        .env("PYTHONPYCACHEPREFIX", scratch().join("python"))
        .env("GOCACHE", scratch().join("go-cache"));
}

fn shell(line: &str) -> Vec<String> {
    ["sh", "-c", line].map(str::to_owned).to_vec()
}

/// The system's own interpreter, for which `scripts/test` installs the library.
fn python() -> &'static str {
    const SYSTEM: &str = "/usr/bin/python3";
    if Path::new(SYSTEM).exists() { SYSTEM } else { "python3" }
}

fn scratch() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ports");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A `go.mod` that takes the dependencies from Debian's packages, if they are installed, and else from where every user of
/// Go has them.
fn go_modules() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let copy = scratch().join("go.mod");
        let mut text = std::fs::read_to_string(path("go/go.mod")).unwrap();
        for module in ["crypto", "sys"] {
            if Path::new(GO_SOURCES).join(module).join("go.mod").exists() {
                text.push_str(&format!("\nreplace golang.org/x/{module} => {GO_SOURCES}/{module}\n"));
            }
        }
        std::fs::write(&copy, text).unwrap();
        std::fs::copy(path("go/go.sum"), scratch().join("go.sum")).unwrap();
        copy
    })
}

fn go_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = scratch().join("spaknock");
        let modules = go_modules().display().to_string();
        run(&shell(&format!("cd go && go build -modfile={modules} -o {} ./cmd/spaknock", program.display())));
        program
    })
}

/// The compiled classes. Compiled for Java 8, so that nothing is used that Android 9 does not have; only the cipher is newer.
fn java_classes() -> &'static Path {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let classes = scratch().join("java");
        let mut words: Vec<String> = "javac -encoding UTF-8 --release 8 -Xlint:all,-options -Werror -d"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        words.push(classes.display().to_string());
        let files =
            ["SpaKnock", "SpaKnockClient", "TestVectors"].map(|name| path(&format!("java/{name}.java")));
        words.extend(files);
        run(&words);
        classes
    })
}
