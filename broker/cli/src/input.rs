//! Input of commands: files, standard input, and bytes that are written in hexadecimal.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::output::{note, note_part};

/// The exit code of a command that Ctrl-C ends, as shells say it.
const INTERRUPTED: i32 = 130;

/// Returns the bytes of a file, or of standard input if the path is `-`.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        return read_stdin();
    }
    read_file(path)
}

/// Returns the bytes of a file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// Returns the UTF-8 text of a file, or of standard input if the path is `-`.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// Returns all bytes of standard input.
fn read_stdin() -> Result<Vec<u8>> {
    let mut content = Vec::new();
    std::io::stdin()
        .read_to_end(&mut content)
        .context("standard input")?;
    Ok(content)
}

/// Reads a secret from standard input, byte for byte. On a terminal, `what` is asked for, what is
/// typed is not shown, and the secret is one line without its end (C6).
pub(crate) fn read_secret(what: &str) -> Result<Zeroizing<Vec<u8>>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return read_stdin().map(Zeroizing::new);
    }
    note_part(&format!("{what} (not shown, ends with Enter): "));
    let shown = tcgetattr(&stdin).context("terminal")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    // What was typed before is not taken for the secret.
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).context("terminal")?;
    // Ctrl-C must not leave a terminal that shows nothing.
    let before = shown.clone();
    let interrupted = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
            note("");
            std::process::exit(INTERRUPTED);
        }
    });
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    let restored = tcsetattr(&stdin, OptionalActions::Drain, &shown);
    interrupted.abort();
    note("");
    read.with_context(|| what.to_owned())?;
    restored.context("terminal")?;
    let secret = line.strip_suffix('\n').unwrap_or(&line);
    if secret.is_empty() {
        bail!("{what}: nothing was typed");
    }
    Ok(Zeroizing::new(secret.as_bytes().to_vec()))
}

/// Reads a credential from standard input, where no process list shows it. `what` names the
/// credential. White space around the credential is kept.
pub(crate) fn read_credential(what: &'static str) -> Result<Zeroizing<String>> {
    let bytes = read_secret(what)?;
    let text = String::from_utf8(bytes.to_vec());
    let text = text.map_err(|_| anyhow!("{what} from standard input: is not text"))?;
    Ok(Zeroizing::new(text))
}

/// Returns the 32 bytes that 64 hexadecimal digits of either case stand for, or `None` for any
/// other text.
pub(crate) fn parse_hex_32(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{parse_hex_32, read_bytes, read_text};

    #[test]
    fn sixty_four_digits_of_either_case_are_thirty_two_bytes() {
        assert_eq!(parse_hex_32(&"aF".repeat(32)), Some([0xaf; 32]));
    }

    #[test]
    fn anything_but_sixty_four_digits_is_refused() {
        for bad in [
            String::new(),
            "0".repeat(63),
            "0".repeat(65),
            "0".repeat(62),
            "0".repeat(66),
            "+1".repeat(32),
            "0g".repeat(32),
            format!(" {}", "0".repeat(63)),
            "ä".repeat(32),
        ] {
            assert_eq!(parse_hex_32(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let missing = std::path::Path::new("/nowhere/at/all");
        assert_eq!(
            read_bytes(missing).unwrap_err().to_string(),
            "/nowhere/at/all"
        );
        assert_eq!(
            read_text(missing).unwrap_err().to_string(),
            "/nowhere/at/all"
        );
    }
}
