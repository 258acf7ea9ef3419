//! Values that make no sense together, or none at all, are refused before anything is rendered, with the reason.

use super::{HELMS, template};

/// The case, what is set in it, and what Helm must say.
const REFUSED: &[(&str, &str, &str)] = &[
    ("injector", "image.repository=", "image.repository: where your image is"),
    ("injector", "image.digest=", "image.digest (or a tag, which somebody can move)"),
    ("injector", "image.digest=sha256:beef", "digest"),
    ("injector", "image.tag=latest", "one of image.digest and image.tag, and not both"),
    ("injector", "injector.enabled=false", "gateway.enabled or injector.enabled: nothing would be installed"),
    ("injector", "injectr.enabled=false", "injectr"),
    ("injector", "injector.sidecar.tennant=a", "tennant"),
    ("injector", "injector.sidecar.type=sidecar", "'native'|\"native\""),
    ("injector", "injector.sidecar.drainWait=40", "drain"),
    ("injector", "injector.webhook.timeoutSeconds=31", "30"),
    ("injector", "injector.replicas=0", "replicas"),
    ("injector", "injector.tls.source=existing", "injector.tls.secret and injector.tls.ca"),
    ("injector", "injector.tls.source=certManager", "injector.tls.issuerRef.name: who issues the certificate"),
    ("injector", "generateSecrets=false", "injector.tls.source is `generated`, and generateSecrets is false"),
    ("gateway", "generateSecrets=false", "gateway.adminToken.source is `generated`, and generateSecrets is false"),
    ("gateway", "gateway.replicas=2", "a ledger in each pod would let a retry execute again"),
    ("gateway", "gateway.autoscaling.enabled=true", "gateway.autoscaling only with ledger.type postgresql"),
    ("gateway", "ledger.type=postgresql", "ledger.postgresql.secret: the Secret with the key url"),
    ("gateway", "ledger.type=mysql", "ledger"),
    ("gateway", "ledger.sqlite.accessModes[0]=ReadWriteMany", "ReadWriteOnce"),
    ("gateway", "gateway.keys.form=ed25519", "the gateway gets the public half only"),
    ("gateway", "gateway.keys.source=existing", "gateway.keys.secret: the Secret with public-key.pem or secret-key"),
    ("gateway", "gateway.keys.tenant=", "gateway.keys.tenant: whom the gateway acts for"),
    ("gateway", "gateway.keys.source=none", "without a key everything is refused"),
    ("gateway", "gateway.adminToken.source=existing", "gateway.adminToken.secret: the Secret with the key token"),
    ("gateway", "gateway.adminToken.readToken=true", "gateway.adminToken.source existing for a readToken"),
    ("gateway", "gateway.tls.clientCa=true", "gateway.tls.secret: without TLS nobody shows a certificate"),
    ("gateway", "gateway.config.mode=demo", "gateway.mode instead of gateway.config.mode"),
    (
        "gateway",
        "gateway.config.listen=0.0.0.0:80",
        "gateway.tls and gateway.listenHost instead of gateway.config.listen",
    ),
    ("gateway", "gateway.config.admin.listen=0.0.0.0:1", "gateway.listenHost instead of gateway.config.admin"),
    ("gateway", "gateway.config.shutdown.delay=1s", "gateway.shutdown instead of gateway.config.shutdown"),
    ("gateway", "gateway.config.ledger.url=memory:", "instead of gateway.config.ledger.url"),
    ("gateway", "gateway.config.ledger.create=true", "instead of gateway.config.ledger.create"),
    ("gateway", "gateway.config.ledger.password_file=/a", "instead of gateway.config.ledger.password_file"),
    ("gateway", "gateway.config.actions.a.headers.Authorization=Bearer", "gateway.config is in a ConfigMap"),
    ("gateway", "gateway.config.telemetry.traces.headers.x-api-key=a", "gateway.config is in a ConfigMap"),
    ("gateway", "gateway.extraEnv[0].name=OPENEXEC_MODE", "another value of the chart in the place of this variable"),
    ("gateway", "gateway.extraEnv[0].name=OTEL_EXPORTER_OTLP_HEADERS", "this variable would hold a secret"),
    ("gateway", "gateway.extraEnv[0].name=A,gateway.extraEnv[0].valueFrom.secretKeyRef.name=b", "secretKeyRef"),
    (
        "gateway",
        "gateway.networkPolicy.egress[0].to=null",
        "or the rules of gateway.networkPolicy.egress would restrict nothing",
    ),
    ("gateway", "gateway.networkPolicy.clients[0].namspaceSelector.a=b", "namspaceSelector"),
    ("gateway", "gateway.resources.limts.cpu=1", "limts"),
    ("gateway", "monitoring.kind=Monitor", "PodMonitor"),
];

#[test]
fn values_that_cannot_be_right_are_refused_with_the_reason() {
    for version in HELMS {
        for (case, set, reason) in REFUSED {
            let said = template(version, case, &["--set", set]).expect_err(set);
            assert!(reason.split('|').any(|reason| said.contains(reason)), "{version}, {set}: {said}");
        }
    }
    // What was refused was each time the one thing that was wrong: `RENDERED` has the cases as they are.
}
