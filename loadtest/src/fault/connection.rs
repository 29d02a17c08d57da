//! One connection through the proxy: two pumps that obey the same order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::{Counts, Fault, Order};

const BUFFER_BYTES: usize = 64 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Answer,
}

/// Why a pump stopped.
enum Stop {
    /// Its source has ended, and it has told its drain.
    End,
    /// The connection is to be reset.
    Reset,
    /// The same, in the middle of a request.
    Cut,
    /// The same, in place of an answer.
    Swallowed,
    /// One side is gone.
    Gone,
}

/// Carries a connection to its end.
pub(super) async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    orders: watch::Receiver<Order>,
    counts: Arc<Counts>,
) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return reset(&client);
    };
    // Without it, small pieces would wait for each other.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let stop = {
        let ((client_in, client_out), (server_in, server_out)) = (client.split(), server.split());
        let born = orders.borrow().resets;
        let requests = Pump { way: Way::Request, orders: orders.clone(), born };
        let answers = Pump { way: Way::Answer, orders, born };
        let (mut requests, mut answers) = (
            std::pin::pin!(requests.run(client_in, server_out)),
            std::pin::pin!(answers.run(server_in, client_out)),
        );
        // After the end of one way the other goes on.
        let mut ended = false;
        loop {
            let (stop, from_server) = tokio::select! {
                stop = &mut requests, if !ended => (stop, false),
                stop = &mut answers => (stop, true),
            };
            match stop {
                Stop::End if !from_server => ended = true,
                stop => break stop,
            }
        }
    };
    let count = match stop {
        // Dropping them closes both in good order.
        Stop::End => return,
        Stop::Reset => None,
        Stop::Cut => Some(&counts.cut),
        Stop::Swallowed => Some(&counts.swallowed),
        // One that was reset by its peer, not by us.
        Stop::Gone => return [client, server].iter().for_each(reset),
    };
    counts.resets.fetch_add(1, Ordering::Relaxed);
    if let Some(count) = count {
        count.fetch_add(1, Ordering::Relaxed);
    }
    reset(&client);
    reset(&server);
}

/// The connection is reset when it is dropped, instead of being closed in good order.
fn reset(stream: &TcpStream) {
    // One whose peer is gone cannot be, and need not be.
    drop(stream.set_zero_linger());
}

/// One way of a connection.
struct Pump {
    way: Way,
    orders: watch::Receiver<Order>,
    /// The resets that were before its time.
    born: u64,
}

impl Pump {
    async fn run(mut self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Stop {
        self.pump(from, to).await.unwrap_or(Stop::Gone)
    }

    async fn pump(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<Stop> {
        let mut buffer = vec![0; BUFFER_BYTES];
        // Bytes let through since the order that is in force.
        let mut passed = 0;
        loop {
            let bytes = tokio::select! {
                bytes = from.read(&mut buffer) => bytes?,
                order = self.changed() => {
                    passed = 0;
                    if order.resets != self.born {
                        return Ok(Stop::Reset);
                    }
                    continue;
                }
            };
            let order = self.released(&mut passed).await;
            if order.resets != self.born {
                return Ok(Stop::Reset);
            }
            if bytes == 0 {
                to.shutdown().await?;
                return Ok(Stop::End);
            }
            match (order.fault, self.way) {
                (Fault::Swallow, Way::Answer) => return Ok(Stop::Swallowed),
                (Fault::Cut { after_bytes }, Way::Request)
                    if passed + bytes as u64 > after_bytes =>
                {
                    let last = (after_bytes - passed) as usize;
                    to.write_all(&buffer[..last]).await?;
                    to.flush().await?;
                    return Ok(Stop::Cut);
                }
                (Fault::Delay(pause), _) => tokio::time::sleep(pause).await,
                _ => {}
            }
            to.write_all(&buffer[..bytes]).await?;
            passed += bytes as u64;
        }
    }

    /// The next order.
    async fn changed(&mut self) -> Order {
        if self.orders.changed().await.is_err() {
            // The proxy is gone, and with it soon this task.
            std::future::pending::<()>().await;
        }
        *self.orders.borrow_and_update()
    }

    /// The order in force, once it lets bytes move.
    async fn released(&mut self, passed: &mut u64) -> Order {
        if self.orders.has_changed().unwrap_or(false) {
            *passed = 0;
        }
        let mut order = *self.orders.borrow_and_update();
        while order.fault == Fault::Stall && order.resets == self.born {
            *passed = 0;
            order = self.changed().await;
        }
        order
    }
}
