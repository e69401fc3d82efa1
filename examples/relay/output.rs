//! Standard output and standard error: texts for a reader who may be slow, and holds nobody else up.

use std::{
    io::Write,
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread,
    time::Duration,
};

/// Time at the end for which the reader may take what waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// A stream to which a thread of its own writes: that waits for as long as the reader takes nothing.
#[derive(Debug)]
pub(crate) struct Output {
    texts: SyncSender<String>,
    /// Ends with the thread.
    ended: Receiver<()>,
    left_out: u64,
}

/// What has become of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// It waits for the reader, as did the one before.
    Over,
    /// It waits for the reader; so many before it were left out.
    Again(u64),
    /// It is left out, as the first one or as one more.
    LeftOut { is_first: bool },
    /// Nobody reads any more.
    Closed,
}

impl Output {
    /// Begins to write to a stream. At most `waiting` texts wait for the reader; later ones are left out.
    pub(crate) fn new(mut stream: impl Write + Send + 'static, waiting: usize) -> Self {
        let (texts, received) = mpsc::sync_channel::<String>(waiting);
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            let _end: mpsc::Sender<()> = end;
            for text in received {
                if stream.write_all(text.as_bytes()).and_then(|()| stream.flush()).is_err() {
                    return;
                }
            }
        });
        Self { texts, ended, left_out: 0 }
    }

    /// Hands over a text, without waiting.
    pub(crate) fn write(&mut self, text: String) -> Handed {
        match self.texts.try_send(text) {
            Ok(()) if self.left_out > 0 => Handed::Again(std::mem::take(&mut self.left_out)),
            Ok(()) => Handed::Over,
            Err(TrySendError::Full(_)) => {
                self.left_out += 1;
                Handed::LeftOut { is_first: self.left_out == 1 }
            }
            Err(TrySendError::Disconnected(_)) => Handed::Closed,
        }
    }

    /// Waits until all that was handed over is written, or for a moment if nobody reads it.
    pub(crate) fn end(self) {
        drop(self.texts);
        // It ends by the end of the thread, or by the time.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}
