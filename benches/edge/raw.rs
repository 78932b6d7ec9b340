//! The raw limits, each in a process of its own: this program started again with the limit's name.
//!
//! `hyper` answers every request with the bytes of a health check. `sockets` keeps connections, reads what they send,
//! and for each [`PUBLISH`] sends the frame that follows it to all of them in one loop.

use std::convert::Infallible;
use std::io::BufRead as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

const ARGUMENT: &str = "--raw";
/// What a connection sends before a frame for everybody.
pub const PUBLISH: u8 = b'P';
/// What a connection needs to be read at all.
const READ_BUFFER_BYTES: usize = 512;

/// A raw limit that runs until it is dropped.
pub struct Raw {
    pub address: SocketAddr,
    child: Child,
}

impl Raw {
    pub fn start(name: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        let mut child = command.args([ARGUMENT, name]).stdout(Stdio::piped()).spawn().expect("this program again");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output");
        std::io::BufReader::new(output).read_line(&mut line).expect("a line");
        Self { address: line.trim().parse().expect("its address"), child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn is_asked_for() -> bool {
    std::env::args().nth(1).as_deref() == Some(ARGUMENT)
}

/// Serves the limit that the arguments name, until the process is killed.
pub fn serve() {
    let name = std::env::args().nth(2).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
        println!("{}", listener.local_addr().expect("an address"));
        let everybody = Arc::<Everybody>::default();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            match name.as_str() {
                "hyper" => tokio::spawn(answer(stream)),
                "sockets" => tokio::spawn(keep(stream, Arc::clone(&everybody))),
                other => panic!("there is no raw limit {other:?}"),
            };
        }
    });
}

async fn answer(stream: TcpStream) {
    let service = service_fn(|_| async {
        let body = Full::new(Bytes::from_static(b"{\"status\":\"alive\"}"));
        let response = http::Response::builder().header("content-type", "application/json").body(body);
        Ok::<_, Infallible>(response.expect("a response"))
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that goes away in mid-request is none of our business.
    let _ = served.await;
}

type Everybody = Mutex<Vec<Arc<TcpStream>>>;

async fn keep(stream: TcpStream, everybody: Arc<Everybody>) {
    let stream = Arc::new(stream);
    everybody.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&stream));
    let mut buffer = [0; READ_BUFFER_BYTES];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) if buffer[0] == PUBLISH => {
                let frame = &buffer[1..read];
                for other in everybody.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let sent = other.try_write(frame).expect("room for a frame");
                    assert_eq!(sent, frame.len(), "room for a frame");
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    everybody.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, &stream));
}
