//! Pingora that only passes bytes to the upstream and back: what a proxy costs that checks nothing.

use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::proxy::http_proxy_service;
use pingora::server::configuration::ServerConf;
use pingora::services::Service as _;

struct Passing {
    upstream: String,
}

#[async_trait]
impl ProxyHttp for Passing {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(&self.upstream, false, String::new())))
    }
}

pub(crate) fn serve(listen: &str, upstream: &str) {
    let conf = Arc::new(ServerConf { upstream_keepalive_pool_size: 256, ..ServerConf::default() });
    let mut service = http_proxy_service(&conf, Passing { upstream: upstream.to_owned() });
    service.add_tcp(listen);
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        tokio::spawn(async move { service.start_service(None, stopped, 1).await }).await.unwrap();
    });
}
