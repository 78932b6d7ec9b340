//! Frames on one stream, with a sign of life both ways.
//!
//! A frame is `length (4, little endian) ‖ body`; an empty one is a heartbeat, sent whenever nothing else was for a
//! heartbeat's time. A side that hears not a byte for three of them, or cannot get rid of a byte for the stall time,
//! closes the stream. What waits to be sent is bounded in bytes; what is received is bounded by the frame limit and
//! grows only as it arrives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A connected stream, encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(super) type Io = Box<dyn Duplex>;

/// Bytes read or written at once.
const PIECE: usize = 256 << 10;
const READ_BUFFER: usize = 64 << 10;
/// Frames that wait to be written at most, whatever their size.
const QUEUE_FRAMES: usize = 1024;

/// Periods and bounds of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub heartbeat: Duration,
    /// Without a byte for this long the other side counts as dead.
    pub silence: Duration,
    /// The longest a write may make no progress.
    pub stall: Duration,
    /// The largest frame accepted.
    pub frame_bytes: usize,
    /// Bytes of frames that wait to be sent.
    pub queue_bytes: usize,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the stream was closed")]
    Closed,
    #[error("the other side has been silent for {0:?}")]
    Silent(Duration),
    #[error("a frame of {bytes} bytes is above the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the stream broke")]
    Io(#[from] io::Error),
}

/// Sends frames. Cheap to clone; the stream ends with the last clone.
#[derive(Clone)]
pub struct FrameSender {
    frames: mpsc::Sender<(Vec<u8>, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    queue_bytes: usize,
    closed: CancellationToken,
}

impl FrameSender {
    /// Waits for room and queues a frame.
    ///
    /// # Errors
    /// [`StreamError::Closed`]; [`StreamError::TooLarge`] when it could never fit.
    pub async fn send(&self, frame: Vec<u8>) -> Result<(), StreamError> {
        let bytes = self.fits(&frame)?;
        let queue = async {
            let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.map_err(|_| StreamError::Closed)?;
            self.frames.send((frame, room)).await.map_err(|_| StreamError::Closed)
        };
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(StreamError::Closed),
            sent = queue => sent,
        }
    }

    fn fits(&self, frame: &[u8]) -> Result<u32, StreamError> {
        let too_large = StreamError::TooLarge { bytes: frame.len(), limit: self.queue_bytes };
        let fits = !frame.is_empty() && frame.len() <= self.queue_bytes;
        if fits { u32::try_from(frame.len()).map_err(|_| too_large) } else { Err(too_large) }
    }

    /// Closes the stream at once; what waits is dropped.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Cancelled when the stream has ended, whoever ended it.
    #[must_use]
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

/// Receives frames. The stream ends when it is dropped.
pub struct FrameReceiver {
    half: BufReader<ReadHalf<Io>>,
    pace: Pace,
    closed: CancellationToken,
    _guard: DropGuard,
}

impl FrameReceiver {
    /// The next frame. Not to be cancelled half-way: a frame begun would be lost.
    ///
    /// # Errors
    /// [`StreamError`], after which nothing more comes.
    pub async fn next(&mut self) -> Result<Vec<u8>, StreamError> {
        let closed = self.closed.clone();
        tokio::select! {
            biased;
            () = closed.cancelled() => Err(StreamError::Closed),
            frame = self.read() => frame,
        }
    }

    async fn read(&mut self) -> Result<Vec<u8>, StreamError> {
        loop {
            let length = timeout(self.pace.silence, self.half.read_u32_le()).await;
            let length = length.map_err(|_| StreamError::Silent(self.pace.silence))?? as usize;
            if length > self.pace.frame_bytes {
                return Err(StreamError::TooLarge { bytes: length, limit: self.pace.frame_bytes });
            }
            if length > 0 {
                return self.body(length).await;
            }
        }
    }

    async fn body(&mut self, length: usize) -> Result<Vec<u8>, StreamError> {
        let mut body = Vec::with_capacity(length.min(PIECE));
        while body.len() < length {
            let rest = length - body.len();
            body.reserve(rest.min(PIECE));
            let mut piece = (&mut self.half).take(rest as u64);
            let read = timeout(self.pace.silence, piece.read_buf(&mut body)).await;
            if read.map_err(|_| StreamError::Silent(self.pace.silence))?? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(body)
    }
}

/// Takes a stream into use: from now on it is kept alive, and `closed` ends it.
pub(super) fn frames(io: Io, pace: Pace, closed: CancellationToken) -> (FrameSender, FrameReceiver) {
    let (read, write) = tokio::io::split(io);
    let (frames, queued) = mpsc::channel(QUEUE_FRAMES);
    tokio::spawn(write_frames(write, queued, pace, closed.clone()));
    let room = Arc::new(Semaphore::new(pace.queue_bytes));
    let sender = FrameSender { frames, room, queue_bytes: pace.queue_bytes, closed: closed.clone() };
    let half = BufReader::with_capacity(READ_BUFFER, read);
    (sender, FrameReceiver { half, pace, _guard: closed.clone().drop_guard(), closed })
}

type Queued = mpsc::Receiver<(Vec<u8>, OwnedSemaphorePermit)>;

async fn write_frames(mut half: WriteHalf<Io>, mut queued: Queued, pace: Pace, closed: CancellationToken) {
    let mut buffer = Vec::with_capacity(READ_BUFFER);
    loop {
        let first = tokio::select! {
            biased;
            () = closed.cancelled() => break,
            frame = queued.recv() => match frame {
                Some(frame) => Some(frame),
                None => break,
            },
            () = sleep(pace.heartbeat) => None,
        };
        buffer.clear();
        let beat = first.is_none();
        if !beat {
            // Whoever was woken with the sender of this frame may have one for the same write (ADR 0116).
            tokio::task::yield_now().await;
        }
        if beat {
            buffer.extend_from_slice(&0u32.to_le_bytes());
        }
        let mut next = first;
        while let Some((frame, _room)) = next {
            #[expect(clippy::cast_possible_truncation, reason = "bounded by the window, which is counted in u32")]
            buffer.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&frame);
            next = if buffer.len() < PIECE { queued.try_recv().ok() } else { None };
        }
        let written = tokio::select! {
            biased;
            () = closed.cancelled() => break,
            written = write_all(&mut half, &buffer, pace.stall) => written,
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a stream between nodes takes nothing any more");
            break;
        }
        if buffer.capacity() > 4 * PIECE {
            buffer = Vec::with_capacity(READ_BUFFER);
        }
    }
    closed.cancel();
    let _ = timeout(pace.heartbeat, half.shutdown()).await;
}

async fn write_all(half: &mut WriteHalf<Io>, bytes: &[u8], stall: Duration) -> io::Result<()> {
    let stalled = || io::Error::new(io::ErrorKind::TimedOut, "no byte could be written in time");
    for piece in bytes.chunks(PIECE) {
        timeout(stall, half.write_all(piece)).await.map_err(|_| stalled())??;
    }
    timeout(stall, half.flush()).await.map_err(|_| stalled())?
}

/// One frame before the stream is taken into use. The caller sets the deadline.
pub(super) async fn read_one(io: &mut Io, limit: usize) -> Result<Vec<u8>, StreamError> {
    let length = io.read_u32_le().await? as usize;
    if length > limit || length == 0 {
        return Err(StreamError::TooLarge { bytes: length, limit });
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(body)
}

pub(super) async fn write_one(io: &mut Io, body: &[u8]) -> Result<(), StreamError> {
    let length = u32::try_from(body.len()).map_err(|_| StreamError::TooLarge { bytes: body.len(), limit: PIECE })?;
    io.write_all(&[&length.to_le_bytes()[..], body].concat()).await?;
    io.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::fuzz_tests::fuzz_costly;

    #[test]
    fn any_bytes_as_frames_of_a_stream() {
        let framed = |frames: &[&[u8]]| {
            let frame = |frame: &&[u8]| [&u32::try_from(frame.len()).expect("short").to_le_bytes()[..], frame].concat();
            frames.iter().flat_map(frame).collect::<Vec<u8>>()
        };
        let pace = Pace {
            heartbeat: Duration::from_secs(60),
            silence: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            frame_bytes: 1 << 10,
            queue_bytes: 1 << 10,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let seeds = [framed(&[b"one", b"", b"two"]), framed(&[&[7; 1024]]), framed(&[&[7; 1025]])];
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        fuzz_costly("frames", &seeds, |bytes| {
            runtime.block_on(async {
                let (_sender, mut receiver) = frames(Box::new(io_of(bytes).await), pace, CancellationToken::new());
                let mut found = Vec::new();
                let end = loop {
                    match receiver.next().await {
                        Ok(frame) => found.push(frame),
                        Err(error) => break error,
                    }
                };
                assert!(found.iter().all(|frame| (1..=pace.frame_bytes).contains(&frame.len())));
                // Without the empty frames, which say no more than that the other side lives.
                let mut rest = bytes;
                for frame in &found {
                    while let Some(after) = rest.strip_prefix(&[0; 4]) {
                        rest = after;
                    }
                    let whole = framed(&[frame]);
                    rest = rest.strip_prefix(&whole[..]).expect("a frame is what was sent");
                }
                let mut io: Io = Box::new(io_of(bytes).await);
                let one = read_one(&mut io, 512).await.map(|one| one.len().min(4));
                format!(
                    "{} {:?} {:?}",
                    found.len(),
                    std::mem::discriminant(&end),
                    one.map_err(|e| std::mem::discriminant(&e))
                )
            })
        });
    }

    /// A stream on which these bytes come and then no more.
    async fn io_of(bytes: &[u8]) -> tokio::io::DuplexStream {
        let (io, mut other) = tokio::io::duplex(64 << 10);
        other.write_all(bytes).await.expect("it fits");
        other.shutdown().await.expect("an open stream");
        io
    }
}
