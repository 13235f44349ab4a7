//! A website on loopback, for the demo's preview: one page with one picture.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The title of the page.
pub(super) const TITLE: &str = "Mountains & lakes";

const PAGE: &str = "<!doctype html><html><head><title>Start – the demo's site</title>\
    <meta property=\"og:title\" content=\"Mountains &amp; lakes\">\
    <meta property=\"og:description\" content=\"A page made for the demo, with a picture.\">\
    <meta property=\"og:image\" content=\"picture.png\"></head><body><p>Hello.</p></body></html>";

const PICTURE: &[u8] = include_bytes!("../../../assets/demo.png");

/// Serves it over plain HTTP on `listener`, for ever.
pub(super) async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
            let server = hyper::server::conn::http1::Builder::new();
            // A client that breaks off ends its connection and nothing else.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match request.uri().path() {
        "/" => (StatusCode::OK, "text/html; charset=utf-8", PAGE.as_bytes()),
        "/picture.png" => (StatusCode::OK, "image/png", PICTURE),
        _ => (StatusCode::NOT_FOUND, "text/plain", &b"nothing here\n"[..]),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
