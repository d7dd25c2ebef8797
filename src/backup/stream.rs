//! The way from the thread that reads files to the uploads: one bounded queue for each repository, all fed the same bytes.
//!
//! The end is said, not implied: a reader that goes away in the middle gives every upload an error, never a short pack.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Bytes in a piece, as many as in an object's frame.
pub const PIECE_BYTES: usize = 1 << 20;

/// Pieces that wait in the queue of one repository; the repositories share their memory.
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
    outlets: Vec<mpsc::Sender<Piece>>,
    piece: Vec<u8>,
    position: u64,
}

/// A stream to `outlets` uploads: the writing end, and what each upload reads.
pub fn pack_stream(outlets: usize) -> (PackStream, Vec<BoxStream<'static, io::Result<Bytes>>>) {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..outlets).map(|_| mpsc::channel(QUEUE_PIECES_MAX)).unzip();
    let stream = PackStream { outlets: senders, piece: Vec::new(), position: 0 };
    (stream, receivers.into_iter().map(content).collect())
}

fn content(receiver: mpsc::Receiver<Piece>) -> BoxStream<'static, io::Result<Bytes>> {
    let next = |receiver: Option<mpsc::Receiver<Piece>>| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Piece::Content(bytes)) => Some((Ok(bytes), Some(receiver))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("reading the data directory was given up")), None)),
        }
    };
    Box::pin(futures::stream::unfold(Some(receiver), next))
}

impl PackStream {
    /// How many bytes were written so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes; waits while the slowest upload is behind.
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
        for outlet in &self.outlets {
            outlet.blocking_send(Piece::End).map_err(|_| Stopped)?;
        }
        Ok(self.position)
    }

    fn send(&mut self) -> Result<(), Stopped> {
        let bytes = Bytes::from(std::mem::take(&mut self.piece));
        for outlet in &self.outlets {
            outlet.blocking_send(Piece::Content(bytes.clone())).map_err(|_| Stopped)?;
        }
        Ok(())
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
    async fn every_upload_gets_every_byte() {
        let (mut stream, contents) = pack_stream(3);
        let data: Vec<u8> = (0u8..251).cycle().take(3 * PIECE_BYTES + 77).collect();
        let source = data.clone();
        let writer = tokio::task::spawn_blocking(move || {
            for part in source.chunks(300_001) {
                stream.write(part)?;
            }
            stream.finish()
        });
        let read = futures::future::join_all(contents.into_iter().map(|mut content| async move {
            let mut all = Vec::new();
            while let Some(bytes) = content.next().await {
                all.extend(bytes.unwrap());
            }
            all
        }))
        .await;
        assert_eq!(writer.await.unwrap(), Ok(data.len() as u64));
        assert!(read.iter().all(|all| *all == data));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_an_error_and_not_an_end() {
        let (mut stream, mut contents) = pack_stream(1);
        tokio::task::spawn_blocking(move || stream.write(&vec![1; PIECE_BYTES + 1])).await.unwrap().unwrap();
        let mut content = contents.remove(0);
        assert!(content.next().await.unwrap().is_ok());
        assert!(content.next().await.unwrap().is_err());
        assert!(content.next().await.is_none());
    }

    #[tokio::test]
    async fn an_upload_that_goes_away_stops_the_reader() {
        let (mut stream, contents) = pack_stream(2);
        drop(contents);
        let written = tokio::task::spawn_blocking(move || stream.write(&vec![1; PIECE_BYTES])).await.unwrap();
        assert_eq!(written, Err(Stopped));
    }
}
