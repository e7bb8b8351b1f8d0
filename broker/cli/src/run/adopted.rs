//! Orphans that the supervisor has adopted, and that nobody else waits for when they end.

use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use super::descendants::ended_children;

/// Children of the supervisor's own, such as commands that collect evidence, are waited for by who
/// has started them, long before this time is over.
const OWN_ARE_WAITED_FOR: Duration = Duration::from_secs(1);

/// Waits for adopted children, for ever. The command is waited for elsewhere.
pub(super) async fn reap(command: Pid) {
    let Ok(mut children) = signal(SignalKind::child()) else {
        return;
    };
    while children.recv().await.is_some() {
        let mut ended = ended_children(getpid());
        ended.retain(|child| child.pid != command);
        while !ended.is_empty() {
            tokio::time::sleep(OWN_ARE_WAITED_FOR).await;
            let mut now = ended_children(getpid());
            now.retain(|child| child.pid != command);
            for child in ended.intersection(&now) {
                let _ = waitpid(Some(child.pid), WaitOptions::NOHANG);
            }
            ended = now.difference(&ended).copied().collect();
        }
    }
}
