"""Prints the dashboard: `make dashboard` writes openexec.json with it, and a test compares the two.

Grafana's own library makes the JSON, for Grafana 11 and later, and lays the panels out in the order in which they stand.
In an expression `@` stands for the chosen gates. A gate outside of Kubernetes has no namespace and no pod: "All" is the
pattern `.*`, which takes what has no such label, too.
"""

import json

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = 'namespace=~"$namespace", pod=~"$pod"'
DAY = 86400


def query(at, expression, legend):
    made = prometheus.Dataquery().ref_id(chr(ord("A") + at)).datasource(SOURCE)
    return made.expr(expression.replace("@", CHOSEN)).legend_format(legend)


def steps(*colours):
    """Thresholds: a colour, and from which value on."""
    first, *rest = colours
    all_steps = [Threshold(color=first)] + [Threshold(color=colour, value=value) for colour, value in rest]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(all_steps)


def complete(panel, title, description, unit, width, height, queries):
    panel.title(title).description(description).datasource(SOURCE).unit(unit).span(width).height(height)
    for at, (expression, legend) in enumerate(queries):
        panel.with_target(query(at, expression, legend))
    return panel


def number(title, description, unit, expression, colours=("green",), legend="", width=3):
    """The newest value, large."""
    panel = complete(stat.Panel(), title, description, unit, width, 4, [(expression, legend)])
    panel.thresholds(steps(*colours)).graph_mode(BigValueGraphMode.NONE)
    panel.color_mode(BigValueColorMode.BACKGROUND if len(colours) > 1 else BigValueColorMode.VALUE)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))


def graph(title, description, unit, *queries, width=8, colours=None, stacked=False, most=None):
    panel = complete(timeseries.Panel(), title, description, unit, width, 8, queries)
    panel.min(0).fill_opacity(20 if stacked else 8).show_points(VisibilityMode.NEVER)
    panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if most is not None:
        panel.max(most)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if colours:
        panel.thresholds(steps(*colours))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.LINE))
    return panel


def by_labels(labels):
    return f" by ({labels}) " if labels else ""


def rate(metric, by=""):
    return f"sum{by_labels(by)}(rate({metric}[$__rate_interval]))"


def quantile(share, histogram):
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket{{@}}', 'le')})"


def quantiles(title, description, histogram, unit="s", **more):
    queries = [(quantile(share, histogram), name) for share, name in [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]]
    return graph(title, description, unit, *queries, **more)


def share(metric, by=""):
    """Of a limit, at the gate that is nearest to its own."""
    return f"max{by_labels(by)}({metric}{{@}} / {metric}_limit{{@}})"


# Red from 1 on.
NONE = ("green", ("red", 1))
# A limit.
FULL = ("green", ("orange", 0.8), ("red", 0.95))
# What ends, and is near it.
ENDS = ("red", ("orange", 2 * DAY), ("green", 14 * DAY))
ADDED = f"{quantile(0.99, 'openexec_enforcement_seconds')} + {quantile(0.99, 'openexec_ledger_seconds')}"
REFUSED = 'openexec_verdicts_total{@, verdict="refused"}'

ROWS = {
    "At a glance": [
        number("Executed", "New executions that were answered with their result.", "ops",
               rate('openexec_verdicts_total{@, verdict="executed"}')),
        number("Refused", "Of all requests, the share that was refused, for whatever reason.", "percentunit",
               f"{rate(REFUSED)} / {rate('openexec_verdicts_total{@}')}"),
        number("Unknown outcomes",
               "Dispatched, and nobody knows what came of it. Replicas of one ledger say the same, so this is the largest.",
               "short", "max(openexec_unknown_executions{@})", ("green", ("orange", 1))),
        number("Ways past the gate", "Gates whose service answers beside them. They are not ready because of it.", "short",
               "sum(openexec_bypass_found{@})", NONE),
        number("Local ledgers", "Ledgers that die with their pod. A retry at another pod executes once more.", "short",
               "sum(openexec_ledger_local{@})", ("green", ("orange", 1))),
        number("Old configurations", "Gates that could not take the newest one into use.", "short",
               "sum(1 - openexec_config_last_reload_successful{@})", ("green", ("orange", 1))),
        number("Added time", "p99 in the gate itself plus p99 of the wait for its ledger: at most 2 % take longer.", "s",
               ADDED, ("green", ("orange", 0.08192), ("red", 0.65536))),
        number("Gates", "How many answer, by version.", "short", "count by (version) (openexec_build_info{@})",
               legend="{{version}}"),
    ],
    "Verdicts": [
        graph("Verdicts", "executed: with a new result; replayed: with a stored one; refused: with neither.", "reqps",
              (rate("openexec_verdicts_total{@}", "verdict"), "{{verdict}}"), width=6, stacked=True),
        graph("Refusals by reason", "The codes of the README's table. Reasons that nobody got are left out.", "reqps",
              (rate(REFUSED, "reason") + " > 0", "{{reason}}"), width=6),
        graph("Replays", "Of what was answered with a result, the share that came from the ledger: retries.", "percentunit",
              (rate('openexec_verdicts_total{@, verdict="replayed"}')
               + " / " + rate('openexec_verdicts_total{@, verdict=~"executed|replayed"}'), "replayed"), width=6, most=1),
        graph("Error budgets",
              "How fast they are spent over an hour; at 1 they last exactly as long as the objective is for, from 14.4 on "
              "somebody is called. It needs the recording rules (rules/slo.yaml).", "none",
              ('openexec:errors:ratio_rate1h{namespace=~"$namespace"} / 0.001', "errors {{namespace}}"),
              ('openexec:slow:ratio_rate1h{namespace=~"$namespace"} / 0.01', "latency {{namespace}}"),
              width=6, colours=("green", ("orange", 1), ("red", 14.4))),
    ],
    "Executions": [
        graph("Executions by action", "What was claimed here and has ended, whatever came of it.", "ops",
              (rate("openexec_executions_total{@}", "action"), "{{action}}"), stacked=True),
        graph("Not done, by action and outcome",
              "not_executed: it is certain that nothing happened; unknown: nobody knows.", "ops",
              (rate('openexec_executions_total{@, outcome!="done"}', "action, outcome"), "{{action}} {{outcome}}")),
        graph("Recoveries", "Attempts to find out about unknown outcomes, by result.", "ops",
              (rate("openexec_recoveries_total{@}", "result"), "{{result}}")),
    ],
    "Latency": [
        quantiles("In the gate itself", "Checks, waiting for a turn, making the answer.", "openexec_enforcement_seconds"),
        quantiles("Waiting for the ledger", "Its commits and look-ups, as an execution waits for them.",
                  "openexec_ledger_seconds"),
        quantiles("Waiting for the action", "Its service, connecting included.", "openexec_upstream_seconds"),
    ],
    "Ledger": [
        graph("Commits", "Durable ones, and those that failed. While they fail nothing new is executed.", "ops",
              (rate("openexec_ledger_commits_total{@}"), "commits"),
              (rate("openexec_ledger_commit_failures_total{@}"), "failed")),
        quantiles("Rows that share a commit", "More at once is cheaper for each.", "openexec_ledger_batch_size", "short"),
        quantiles("Time of a commit", "Its statements included.", "openexec_ledger_commit_seconds"),
        graph("Size", "The file, and what is in its WAL; 0 for memory and PostgreSQL.", "bytes",
              ("sum(openexec_ledger_database_bytes{@})", "database"), ("sum(openexec_ledger_wal_bytes{@})", "WAL")),
        graph("Free on the file system", "The least of all gates with a file. Below ledger.min_free_bytes nothing new is "
              "executed.", "bytes", ("min(openexec_ledger_disk_free_bytes{@} > 0)", "free"),
              colours=("red", ("green", 256 << 20))),
        graph("Forgotten", "What was older than retention allows.", "ops",
              (rate("openexec_ledger_results_forgotten_total{@}"), "results"),
              (rate("openexec_ledger_executions_forgotten_total{@}"), "executions")),
    ],
    "Approvals and tenants": [
        graph("Approvals by key", "Authentic ones. A key that nobody uses any more can be taken away.", "ops",
              (rate("openexec_approvals_total{@}", "tenant, key"), "{{tenant}} {{key}}")),
        graph("Requests by tenant", "Authentic ones, by verdict.", "reqps",
              (rate("openexec_tenant_requests_total{@}", "tenant, verdict"), "{{tenant}} {{verdict}}")),
        graph("Dropped denials", "Authentic requests that were refused and are not in `openexec denials`.", "ops",
              (rate("openexec_denials_dropped_total{@}"), "dropped")),
    ],
    "Saturation": [
        graph("Taken of each limit", "At the gate that is nearest to its own. At 1 requests are refused, or wait.",
              "percentunit", (share("openexec_in_flight_executions"), "in flight"),
              (share("openexec_connections"), "connections"), (share("openexec_buffered_bytes"), "buffered bytes"),
              colours=FULL, most=1),
        graph("Taken of tenants' limits", "Executions at once, of the tenant's own share.", "percentunit",
              (share("openexec_tenant_in_flight_executions", "tenant"), "{{tenant}}"), colours=FULL, most=1),
        graph("In flight", "Executions that run, and clients' connections that are open, of all gates.", "short",
              ("sum(openexec_in_flight_executions{@})", "executions"), ("sum(openexec_connections{@})", "connections")),
    ],
    "Services behind the gate": [
        graph("Connections", "Opened, used again, or not to be had.", "ops",
              (rate("openexec_upstream_connections_total{@}", "upstream, how"), "{{upstream}} {{how}}")),
        graph("Addresses", "All that are known, and those that work.", "short",
              ("sum by (upstream, which) (openexec_upstream_addresses{@})", "{{upstream}} {{which}}")),
        graph("Let through", "Requests of `passthrough`, by class of status, and look-ups of names that failed.", "reqps",
              (rate("openexec_passthrough_requests_total{@}", "upstream, status"), "{{upstream}} {{status}}"),
              (rate("openexec_upstream_lookup_failures_total{@}", "upstream"), "{{upstream}} look-up failed")),
    ],
    "Certificates, keys, configuration": [
        graph("Certificates end in", "The first of each listener, service, ledger and injector.", "s",
              ("min by (of, name) (clamp_min(openexec_certificate_expiry_timestamp_seconds{@} - time(), 0))",
               "{{of}} {{name}}"),
              width=6, colours=ENDS),
        graph("Keys end in", "Those with a not_after. 0: retired.", "s",
              ("min by (tenant, key) (clamp_min(openexec_key_not_after_timestamp_seconds{@} - time(), 0))",
               "{{tenant}} {{key}}"),
              width=6, colours=ENDS),
        graph("Configuration", "How long the oldest in use has been in use.", "s",
              ("max(time() - openexec_config_last_reload_success_timestamp_seconds{@})", "age"), width=6),
        graph("Reloads", "Configurations that were read while running: in use, or refused.", "ops",
              (rate("openexec_config_reloads_total{@}", "result"), "{{result}}"), width=6),
        graph("Knocking", "TLS handshakes that failed, and wrong tokens at the admin listener.", "ops",
              (rate("openexec_tls_handshake_failures_total{@}"), "handshakes"),
              (rate("openexec_admin_unauthenticated_total{@}"), "admin tokens"), width=12),
        graph("Traces", "Spans that the collector took, did not take, and that found no room to wait.", "ops",
              (rate("openexec_trace_spans_total{@}", "result"), "{{result}}"), width=12),
    ],
    "Injector": [
        graph("Reviews", "Pods that it was asked about. The choice of gates above does not count in this row.", "ops",
              (rate("openexec_injector_reviews_total", "outcome"), "{{outcome}}")),
        graph("Refused or failed, by reason", "Such a pod is not made.", "ops",
              (rate('openexec_injector_reviews_total{outcome=~"refused|failed"}', "outcome, reason"),
               "{{outcome}} {{reason}}")),
        graph("Pods with a ledger of their own", "Made in the last day.", "short",
              ("sum(increase(openexec_injector_local_ledgers_total[1d]))", "pods")),
    ],
}


def variable(name, label, expression):
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE)
    made.query({"query": expression, "refId": name}).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    made.multi(True).include_all(True).all_value(".*").sort(VariableSort.ALPHABETICAL_ASC)
    return made.current(VariableOption(text="All", value="$__all"))


def main():
    made = dashboard.Dashboard("OpenExec").uid("openexec").tags(["openexec"]).timezone("browser").refresh("1m")
    made.description("Gates, sidecars and the injector. OpenExec's docs/runbooks.md says what to do about what is seen.")
    made.time("now-6h", "now").tooltip(DashboardCursorSync.CROSSHAIR)
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    made.with_variable(variable("namespace", "Namespace", "label_values(openexec_build_info, namespace)"))
    made.with_variable(variable("pod", "Pod", 'label_values(openexec_build_info{namespace=~"$namespace"}, pod)'))
    identity = 0
    for title, panels in ROWS.items():
        identity += 1
        made.with_row(dashboard.Row(title).id(identity))
        for panel in panels:
            identity += 1
            made.with_panel(panel.id(identity))
    print(json.dumps(made.build(), cls=JSONEncoder, indent=2))


if __name__ == "__main__":
    main()
