//! Stages of a block between an upload and the index, without I/O.
//!
//! ```text
//! Reserved ─▶ Written ─▶ Synced ─▶ Listed
//!     └──────────┴──────────┤ a sync failed
//!                        Unsound ─▶ Synced, when it was written again
//! ```

/// How far a block has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is about to be written.
    Reserved,
    /// Its file is in place, and a power cut may take its bytes.
    Written,
    /// Its bytes are durable, or in memory for a short block. The name of its file may not be.
    Synced,
    /// The index lists it.
    Listed,
    /// A sync failed while the index did not list it. The system reports an error once, and to one caller alone: after it
    /// the page cache may hold as clean what never reached the disk, and every later sync may succeed. So the file has to be
    /// written again, or removed, although its bytes look right.
    Unsound,
}

/// A change of a block in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Its file was put in place without a sync, or was there already.
    Written,
    /// Its file was synced where it is.
    Synced,
    /// New bytes were synced and then put in place.
    Replaced,
    /// Some sync of this process failed.
    SyncFailed,
    /// The index lists it, durably.
    Listed,
}

impl Stage {
    /// The stage after an event. Two uploads may write a block at the same time: what one does late changes nothing.
    pub(super) fn after(self, event: Event) -> Self {
        match (event, self) {
            (_, Self::Listed) => self,
            (Event::Written, Self::Reserved) => Self::Written,
            (Event::Synced, Self::Written) | (Event::Replaced, _) => Self::Synced,
            (Event::SyncFailed, _) => Self::Unsound,
            // Also if a sync has failed since the upload that lists it made sure that it is durable.
            (Event::Listed, Self::Synced | Self::Unsound) => Self::Listed,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The true stage of a file after these events.
    fn truth(events: &[Event]) -> Stage {
        let last = |wanted| events.iter().rposition(|event| *event == wanted);
        let (replaced, failed) = (last(Event::Replaced), last(Event::SyncFailed));
        let written = events.iter().position(|event| *event == Event::Written);
        if failed.is_some() && failed > replaced {
            Stage::Unsound
        } else if replaced.is_some() || (written.is_some() && last(Event::Synced) > written) {
            Stage::Synced
        } else if written.is_some() {
            Stage::Written
        } else {
            Stage::Reserved
        }
    }

    /// Compares the stage with the truth after all continuations of `events`.
    fn follow(stage: Stage, events: &mut Vec<Event>) {
        assert_eq!(stage, truth(events), "{events:?}");
        let may_be_listed = matches!(stage, Stage::Synced | Stage::Unsound);
        assert_eq!(stage.after(Event::Listed), if may_be_listed { Stage::Listed } else { stage });
        for event in [Event::Written, Event::Synced, Event::Replaced, Event::SyncFailed] {
            assert_eq!(Stage::Listed.after(event), Stage::Listed);
            if events.len() < 7 {
                events.push(event);
                follow(stage.after(event), events);
                events.pop();
            }
        }
    }

    #[test]
    fn after_any_events_the_stage_says_what_is_true_of_the_file() {
        follow(Stage::Reserved, &mut Vec::new());
    }
}
