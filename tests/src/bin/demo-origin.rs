//! The origin of `scripts/demo`: serves small texts and counts its fetches, see [`nearside_tests::origin`].

use std::{net::SocketAddr, process::ExitCode};

use nearside_tests::origin::{self, Counts};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let address: Option<SocketAddr> = std::env::args().nth(1).and_then(|address| address.parse().ok());
    let Some(address) = address else {
        eprintln!("usage: demo-origin ADDRESS:PORT");
        return ExitCode::from(2);
    };
    let result = match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => origin::serve(listener, Counts::default()).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo-origin on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}
