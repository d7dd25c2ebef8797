//! The way from the thread that reads files to the upload, which feeds all repositories: a bounded queue.
//!
//! The end is said, not implied: a reader that goes away in the middle gives the upload an error, never a short pack.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Bytes in a piece, as many as in an object's frame.
pub const PIECE_BYTES: usize = 1 << 20;

/// Pieces that wait in the queue.
const QUEUE_PIECES_MAX: usize = 4;

enum Piece {
    Content(Bytes),
    End,
}

/// An upload went away; why is its own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// The writing end. Blocking: for a plain thread.
pub struct PackStream {
    outlet: mpsc::Sender<Piece>,
    piece: Vec<u8>,
    position: u64,
}

/// A stream to an upload: the writing end, and what the upload reads.
///
/// When `cancel` is cancelled, the upload gets an error at once: the thread may hang in a file system, with its end in its hands.
pub fn pack_stream(cancel: CancellationToken) -> (PackStream, BoxStream<'static, io::Result<Bytes>>) {
    let (outlet, receiver) = mpsc::channel(QUEUE_PIECES_MAX);
    (PackStream { outlet, piece: Vec::new(), position: 0 }, content(receiver, cancel))
}

fn content(receiver: mpsc::Receiver<Piece>, cancel: CancellationToken) -> BoxStream<'static, io::Result<Bytes>> {
    let next = move |receiver: Option<mpsc::Receiver<Piece>>| {
        let cancel = cancel.clone();
        async move {
            let mut receiver = receiver?;
            match cancel.run_until_cancelled(receiver.recv()).await.flatten() {
                Some(Piece::Content(bytes)) => Some((Ok(bytes), Some(receiver))),
                Some(Piece::End) => None,
                None => Some((Err(io::Error::other("reading the data directory was given up")), None)),
            }
        }
    };
    Box::pin(futures::stream::unfold(Some(receiver), next))
}

impl PackStream {
    /// How many bytes were written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes; waits while the upload is behind.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Stopped> {
        while !bytes.is_empty() {
            if self.piece.capacity() == 0 {
                self.piece.reserve_exact(PIECE_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            self.position += now.len() as u64;
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Says that this was all. Returns the length.
    pub fn finish(mut self) -> Result<u64, Stopped> {
        if !self.piece.is_empty() {
            self.send()?;
        }
        self.outlet.blocking_send(Piece::End).map_err(|_| Stopped)?;
        Ok(self.position)
    }

    fn send(&mut self) -> Result<(), Stopped> {
        let bytes = Bytes::from(std::mem::take(&mut self.piece));
        self.outlet.blocking_send(Piece::Content(bytes)).map_err(|_| Stopped)
    }
}

impl io::Write for PackStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        PackStream::write(self, bytes).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn the_upload_gets_every_byte() {
        let (mut stream, mut content) = pack_stream(CancellationToken::new());
        let data: Vec<u8> = (0u8..251).cycle().take(3 * PIECE_BYTES + 77).collect();
        let source = data.clone();
        let writer = tokio::task::spawn_blocking(move || {
            for part in source.chunks(300_001) {
                stream.write(part)?;
            }
            stream.finish()
        });
        let mut read = Vec::new();
        while let Some(bytes) = content.next().await {
            read.extend(bytes.unwrap());
        }
        assert_eq!(writer.await.unwrap(), Ok(data.len() as u64));
        assert!(read == data);
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_an_error_and_not_an_end() {
        let (mut stream, mut content) = pack_stream(CancellationToken::new());
        tokio::task::spawn_blocking(move || stream.write(&vec![1; PIECE_BYTES + 1])).await.unwrap().unwrap();
        assert!(content.next().await.unwrap().is_ok());
        assert!(content.next().await.unwrap().is_err());
        assert!(content.next().await.is_none());
    }

    #[tokio::test]
    async fn an_upload_whose_reader_hangs_ends_when_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let (stream, mut content) = pack_stream(cancel.clone());
        let later = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            cancel.cancel();
        };
        assert!(tokio::join!(content.next(), later).0.unwrap().is_err());
        assert!(content.next().await.is_none());
        drop(stream);
    }

    #[tokio::test]
    async fn an_upload_that_goes_away_stops_the_reader() {
        let (mut stream, content) = pack_stream(CancellationToken::new());
        drop(content);
        let written = tokio::task::spawn_blocking(move || stream.write(&vec![1; PIECE_BYTES])).await.unwrap();
        assert_eq!(written, Err(Stopped));
    }
}
