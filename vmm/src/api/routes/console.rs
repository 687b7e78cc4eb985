//! The guest's serial console, as a stream of bytes both ways on the connection of the call.

use std::{os::unix::net::UnixStream as StdStream, time::Duration};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::UnixStream,
    time::timeout,
};

use super::{Api, Refusal};
use crate::{
    api::{fault::Fault, types::CONSOLE_PROTOCOL},
    devices::legacy::Attached,
};

/// A guest that has taken no key for so long takes none: what is typed then is lost, as on a line that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);
/// Keys that are handed on at a time, bytes.
const CHUNK: usize = 4096;

/// Attach to the guest's serial console. Only after the start, and one client at a time. The request has the headers
/// `Connection: upgrade` and `Upgrade: aerostat-console`. After the answer the connection carries what the guest says, and what
/// is typed.
#[utoipa::path(get, path = "/console", tag = "instance", responses((status = 101, description = "The console follows"), Refusal))]
pub(super) async fn attach(State(api): State<Api>, mut request: Request) -> Result<Response, Fault> {
    let is_asked = request.headers().get(header::UPGRADE).is_some_and(|name| name == CONSOLE_PROTOCOL);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| is_asked).ok_or_else(|| {
        Fault::bad_request(format!(
            "The console is no document: ask for it with the headers Connection: upgrade and Upgrade: {CONSOLE_PROTOCOL}."
        ))
    })?;
    let attached = api.get(|controller| controller.attach_console()).await?.0;
    api.consoles.spawn(async move {
        if let Ok(client) = upgrade.await {
            // Whichever side ends it, there is nobody to tell.
            let _ = carry(client, attached).await;
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, CONSOLE_PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Carries bytes both ways until client or guest ends.
async fn carry(client: Upgraded, attached: Attached) -> std::io::Result<()> {
    let (mut typed, mut heard) = split(TokioIo::new(client));
    let (mut output, mut keys) = (stream(&attached.output)?, stream(&attached.keys)?);
    let types = async {
        let (mut chunk, mut patience) = ([0; CHUNK], PATIENCE);
        loop {
            let bytes = match typed.read(&mut chunk).await? {
                0 => return Ok(()),
                count => chunk.get(..count).unwrap_or_default(),
            };
            // A guest that has ended takes no keys either, and is heard to its end.
            patience = match timeout(patience, keys.write_all(bytes)).await {
                Ok(Ok(())) => PATIENCE,
                _ => Duration::ZERO,
            };
        }
    };
    let says = async {
        copy(&mut output, &mut heard).await?;
        heard.shutdown().await
    };
    tokio::select! {
        typed = types => typed,
        said = says => said,
    }
}

fn stream(of: &StdStream) -> std::io::Result<UnixStream> {
    let stream = of.try_clone()?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
