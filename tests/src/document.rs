//! Documents whose commands are run: what a reader pastes, in the order in which it stands there.
//!
//! A block fenced as `sh` is pasted into one shell, and each of its commands must succeed. A block
//! fenced as `text` right behind it is what it prints: `…` stands for anything within a line, and a
//! line with nothing else for any lines. A comment before a block changes how it is run:
//!
//! ```text
//! <!-- run: exits with 125 -->          its last command fails so
//! <!-- run: beside, until READY -->     in another shell, which goes on; READY is in what it prints
//! <!-- run: not here, REASON -->        not run; its `sundew` commands are only read
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// What stands before a word of the shell that speaks to us.
const MARK: char = '\u{1e}';
/// The longest time that a document may take, in seconds.
const LONGEST: &str = "300";

/// A document with its commands.
pub struct Document {
    name: String,
    blocks: Vec<Block>,
}

struct Block {
    /// The line of the document on which the block begins.
    line: usize,
    text: String,
    how: How,
    printed: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum How {
    Beside { until: String },
    NotHere,
    Run { exit: i32 },
}

impl Document {
    /// Reads a document of the repository.
    pub fn read(path: &str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = std::fs::read_to_string(&file).expect(path);
        Self::parse(path, &text)
    }

    /// Reads the text of a document. Panics at a comment that says nothing.
    pub fn parse(name: &str, text: &str) -> Self {
        let (mut blocks, mut how) = (Vec::<Block>::new(), None);
        let mut lines = text.lines().enumerate();
        // Whether a block of text is what the block before it prints.
        let mut follows = false;
        while let Some((at, line)) = lines.next() {
            let indent = line.len() - line.trim_start().len();
            let word = line.trim();
            if let Some(note) = word.strip_prefix("<!-- run: ") {
                let note = note.strip_suffix(" -->").unwrap_or_default();
                how = Some(How::parse(note).unwrap_or_else(|| panic!("{name}:{}", at + 1)));
            } else if let Some(fence) = word.strip_prefix("```") {
                let content: Vec<_> = lines
                    .by_ref()
                    .map(|(_, line)| line)
                    .take_while(|line| line.trim() != "```")
                    .map(|line| line.get(indent..).unwrap_or_default())
                    .collect();
                let content = content.join("\n");
                match fence {
                    "sh" => blocks.push(Block {
                        line: at + 1,
                        text: content,
                        how: how.take().unwrap_or(How::Run { exit: 0 }),
                        printed: None,
                    }),
                    "text" if follows => {
                        blocks.last_mut().expect("a block").printed = Some(content);
                    }
                    _ => {}
                }
                follows = fence == "sh";
            } else if !word.is_empty() {
                follows = false;
            }
        }
        let name = name.to_owned();
        Self { name, blocks }
    }

    /// Runs the document in an empty home, with the binary under test on the path and a network of
    /// its own. Returns how many blocks were run, or what did not go as the document says.
    ///
    /// `setting` is run first: what the document takes for granted.
    pub fn run(&self, setting: &str) -> Result<usize, String> {
        let (home, work) = (folder(), folder());
        let script = work.path().join("script");
        std::fs::write(&script, self.script(work.path(), setting)).expect("script");
        let binary = crate::sundew();
        let binaries = binary.parent().expect("folder").display();
        let output = Command::new("timeout")
            .args([LONGEST, "unshare", "--net", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "bash"])
            .arg(&script)
            .current_dir(home.path())
            .env_clear()
            .env("HOME", home.path())
            .env("LANG", "C.UTF-8")
            .env(
                "PATH",
                format!("{binaries}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
            )
            .output()
            .expect("unshare");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut ran = 0;
        for (number, block) in self.blocks.iter().enumerate() {
            if block.how == How::NotHere {
                continue;
            }
            let place = format!("{}:{}", self.name, block.line);
            let begin = format!("{MARK}BEGIN {number}\n");
            let printed = said.split_once(&begin).map(|(_, rest)| rest);
            let (printed, rest) = printed
                .and_then(|rest| rest.split_once(&format!("{MARK}END {number}\n")))
                .ok_or_else(|| format!("{place}: not reached, or did not end:\n{said}"))?;
            block
                .judge(printed)
                .map_err(|why| format!("{place}: {why}\n{rest}"))?;
            ran += 1;
        }
        Ok(ran)
    }

    /// The script that runs the document.
    fn script(&self, work: &Path, setting: &str) -> String {
        let work = work.display();
        // What is beside ends with its process group.
        let mut script = format!(
            "exec 2>&1\nset -m\nip link set lo up || exit 1\n{setting}\n\
             trap 'printf \"{MARK}FAILED %s\\n\" $?' ERR\n"
        );
        for (number, block) in self.blocks.iter().enumerate() {
            let file = format!("{work}/{number}.sh");
            // What a block fails with is told where it fails, and not again at its end.
            std::fs::write(&file, format!("{}\n:\n", block.text)).expect("block");
            match &block.how {
                How::NotHere => {}
                How::Run { .. } => script.push_str(&format!(
                    "printf '{MARK}BEGIN {number}\\n'\n. {file}\nprintf '{MARK}END {number}\\n'\n"
                )),
                How::Beside { until } => script.push_str(&format!(
                    "( . {file} ) > {work}/{number}.out 2>&1 &\n\
                     for _ in $(seq 600); do\n\
                     grep -qF -e '{until}' {work}/{number}.out && break\n\
                     kill -0 $! 2>/dev/null || break\nsleep 0.1\ndone\n\
                     printf '{MARK}BEGIN {number}\\n'\ncat {work}/{number}.out\n\
                     grep -qF -e '{until}' {work}/{number}.out\nprintf '{MARK}END {number}\\n'\n"
                )),
            }
        }
        script.push_str("kill $(jobs -p | sed 's/^/-/') 2>/dev/null\nexit 0\n");
        script
    }

    /// Lets the binary under test read every `sundew` command of the document, run or not. Returns how
    /// many there are, or the first that is none.
    pub fn check(&self) -> Result<usize, String> {
        let mut read = 0;
        for block in &self.blocks {
            for command in commands(&block.text) {
                let place = format!("{}:{}: {command}", self.name, block.line);
                let output = Command::new("bash")
                    .arg("-c")
                    .arg(format!("{WITH_HELP}\n{command}"))
                    .env("BINARY", crate::sundew())
                    .output()
                    .expect("bash");
                if !output.status.success() {
                    let why = String::from_utf8_lossy(&output.stderr).into_owned();
                    return Err(format!("{place}\n{why}"));
                }
                read += 1;
            }
        }
        Ok(read)
    }
}

/// A `sundew` that is asked for help on what it is told: the command line is read up to there.
const WITH_HELP: &str = "sundew() {
  local words=() asked=
  for word in \"$@\"; do
    if [ \"$word\" = -- ] && [ -z \"$asked\" ]; then words+=(--help); asked=yes; fi
    words+=(\"$word\")
  done
  [ -n \"$asked\" ] || words+=(--help)
  \"$BINARY\" \"${words[@]}\" >/dev/null
}";

/// The `sundew` commands of a block, without what the shell does beside them.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines() {
        let line = line.trim();
        let starts = line.match_indices("sundew ").map(|(at, _)| at);
        for at in starts {
            let before = line.get(..at).unwrap_or_default();
            let is_command = before.is_empty()
                || before.ends_with("| ")
                || before.ends_with("$(")
                || before.ends_with("&& ")
                || before
                    .split(' ')
                    .all(|word| word.is_empty() || word.contains('='));
            if !is_command {
                continue;
            }
            let rest = &without_placeholders(line.get(at..).unwrap_or_default());
            let ends = [" | ", " > ", " >> ", " < ", " <<", " # ", " && ", "; ", ")"];
            // What ends a substitution belongs to the command only if that stands in one.
            let ends = ends
                .iter()
                .filter(|end| **end != ")" || before.ends_with("$("));
            let end = ends.filter_map(|end| rest.find(end)).min();
            found.push(
                rest.get(..end.unwrap_or(rest.len()))
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
    }
    found
}

/// A line in which each `<WORDS>` that a reader replaces is one word, and each `$(…)` and `$NAME` too.
fn without_placeholders(line: &str) -> String {
    let mut out = String::new();
    let mut line = line.to_owned();
    while let Some((before, after)) = line.split_once("$(") {
        let rest = after.split_once(')').map_or("", |(_, rest)| rest);
        line = format!("{before}X{rest}");
    }
    while let Some(at) = line.find('$') {
        let name = line.get(at + 1..).unwrap_or_default();
        let length = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        line.replace_range(at..at + 1 + length.unwrap_or(name.len()), "X");
    }
    let mut rest = line.as_str();
    while let Some((before, after)) = rest.split_once('<') {
        let inside = after.split_once('>');
        let is_placeholder = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic());
        match inside.filter(|(inside, _)| is_placeholder(inside)) {
            Some((_, after)) => {
                out.push_str(before);
                out.push('X');
                rest = after;
            }
            None => {
                out.push_str(before);
                out.push('<');
                rest = after;
            }
        }
    }
    out + rest
}

impl How {
    fn parse(note: &str) -> Option<Self> {
        if let Some(code) = note.strip_prefix("exits with ") {
            return Some(Self::Run {
                exit: code.parse().ok()?,
            });
        }
        if let Some(until) = note.strip_prefix("beside, until ") {
            let until = until.to_owned();
            return (!until.contains('\'')).then_some(Self::Beside { until });
        }
        let reason = note.strip_prefix("not here, ")?;
        (!reason.is_empty()).then_some(Self::NotHere)
    }
}

impl Block {
    /// Says what did not go as the document says.
    fn judge(&self, printed: &str) -> Result<(), String> {
        let mark = format!("{MARK}FAILED ");
        let codes = printed.lines().filter_map(|line| line.split_once(&mark));
        let codes: Vec<i32> = codes.filter_map(|(_, code)| code.parse().ok()).collect();
        let text = printed.lines().map(|line| match line.split_once(&mark) {
            Some((before, _)) => before,
            None => line,
        });
        let text = text.collect::<Vec<_>>().join("\n");
        let wanted = match self.how {
            How::Run { exit } if exit != 0 => vec![exit],
            _ => Vec::new(),
        };
        if codes != wanted {
            return Err(format!("exit codes {codes:?}, not {wanted:?}:\n{text}"));
        }
        match &self.printed {
            Some(shown) if !is_like(&lines(shown), &lines(&text)) => {
                Err(format!("prints\n{text}\nand not, as shown,\n{shown}"))
            }
            _ => Ok(()),
        }
    }
}

/// The lines of a text, without blanks at their ends and around them all.
fn lines(text: &str) -> Vec<&str> {
    text.trim().lines().map(str::trim_end).collect()
}

/// Whether what was printed is what a document shows.
fn is_like(shown: &[&str], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((&"…", rest)) => (0..=printed.len()).any(|skip| is_like(rest, &printed[skip..])),
        Some((line, rest)) => match printed.split_first() {
            Some((first, others)) => is_line_like(line, first) && is_like(rest, others),
            None => false,
        },
    }
}

fn is_line_like(shown: &str, printed: &str) -> bool {
    match shown.split_once('…') {
        None => shown == printed,
        Some((before, after)) => printed.strip_prefix(before).is_some_and(|rest| {
            let places = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            places
                .into_iter()
                .any(|at| is_line_like(after, &rest[at..]))
        }),
    }
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    folder
}
