"""The comparison as text: the table, what did not run and how it failed, what carried NetACC, and a verdict a row."""

import statistics

from rdmalab.compare.carriers import BARE, NAMES, TITLES

DEVICES = {"rxe": "rxe (soft RoCE)", "siw": "siw (soft iWARP)"}
OTHERS = [carrier for carrier in TITLES if carrier != "netacc"]
# Least ratios of NetACC's rate to another carrier's.
LEAST_TO_RSOCKET = 2.0
# Where the device itself does not do that much: this part of what it does for bare verbs.
LEAST_OF_DEVICE = 0.75
LEAST_AT_100 = {"smc": 2.0, "tcp": 1.3}
MOST_WORK = 0.2  # work requests per reply of the server
# Sums among the calls by name.
SORTS = ("total", "device", "files")
MOST_CALLS = 0.05  # system calls per request, either end
# Segments with data that making a connection may cost: a request and an answer each, and those of the first contact.
CONTROL_SEGMENTS = (2, 20)


def median(values):
    """None of no values."""
    values = list(values)
    return statistics.median(values) if values else None


def figure(row, carrier, name="rate"):
    """The median of what a carrier's runs of a row had."""
    return median(r[carrier][name] for r in row["rounds"] if name in r.get(carrier, ()))


def ratio(row, carrier, of="netacc"):
    """NetACC's rate (or that `of` another) to a carrier's: the median over the rounds in which both ran."""
    both = [r for r in row["rounds"] if carrier in r and of in r]
    return median(r[of]["rate"] / r[carrier]["rate"] for r in both)


def number(value, width, digits=0):
    """A number in a column, or a dash."""
    return f"{'-' if value is None else format(value, f',.{digits}f'):>{width}}"


def times(value, width):
    """A ratio in a column."""
    return f"{'-' if value is None else f'{value:.2f}x':>{width}}"


def comparison(rows):
    """The table of rows with all carriers."""
    if not rows:
        return
    yield f"{'':28}" + "".join(f"{title:>25}" for title in TITLES.values()) + f"{'NetACC to':>25}"
    yield f"{'':28}" + f"{'rate':>11}{'p50 ms':>7}{'p99 ms':>7}" * len(TITLES) + "     TCP librsp.   SMC-R"
    for row in rows:
        line = f"{row['title']:28}"
        for carrier in TITLES:
            rate = figure(row, carrier)
            line += number(rate, 11, 1 if rate is not None and rate < 100 else 0)
            line += "".join(number(figure(row, carrier, name), 7, 2) for name in ("p50_ms", "p99_ms"))
        yield f"{line}{times(ratio(row, 'tcp'), 8)}{times(ratio(row, 'rsocket'), 8)}{times(ratio(row, 'smc'), 8)}"
    yield "rate: " + "; ".join(f"{unit}: {', '.join(titles)}" for unit, titles in by_unit(rows).items())


def by_unit(rows):
    """{unit: titles of the rows that it is of}, without redis' rows, whose unit everybody knows."""
    units = {"requests/s": ["redis"]}
    for row in rows:
        if row["unit"] != "requests/s":
            units.setdefault(row["unit"], []).append(row["title"])
    return units


def device_itself(rows):
    """What the device does for a program of bare verbs, beside what it does for the carriers that use it."""
    with_it = [row for row in rows if figure(row, BARE) is not None]
    if with_it:
        yield "\nthe device itself, by perftest's bare verbs:"
    for row in with_it:
        p50 = figure(row, BARE, "p50_ms")
        yield (f"  {row['title']:26}{number(figure(row, BARE), 11)} {row['unit']}{f', p50 {p50:.2f} ms' if p50 else ''}; NetACC's to it"
               f"{times(ratio(row, BARE), 7)}, its to librspreload's{times(ratio(row, 'rsocket', BARE), 7)}")


def packets(rows):
    """What the wire carried for a request."""
    with_packets = [row for row in rows if any("packets" in f for r in row["rounds"] for f in r.values())]
    if not with_packets:
        return
    yield f"\n{'packets on the wire, both ways, for':28}" + "".join(f"{title:>14}" for title in TITLES.values())
    for row in with_packets:
        what = f"a request, {row['title']}" if row["unit"] == "requests/s" else row["title"]
        yield f"  {what:32}" + "".join(number(figure(row, carrier, "packets"), 14, 2) for carrier in TITLES)


def failures(report, rows):
    """What did not run, and how it ended."""
    told = [f"{TITLES[carrier]}: {text}" for carrier, text in report["cannot"].items()]
    programs = report.get("programs", {}) if "rsocket" not in report["cannot"] else {}
    told += [f"librspreload, redis: {text}" for text in programs.values()]
    where = {}
    for row in rows:
        for carrier, texts in row["failed"].items():
            ran = sum(carrier in r for r in row["rounds"])
            for text in dict.fromkeys(texts):
                often = f" ({texts.count(text)} of {ran + len(texts)} runs)" if ran else ""
                where.setdefault((carrier, text), []).append(row["title"] + often)
    told += [f"{NAMES[carrier]}, {'; '.join(titles)}: {text}" for (carrier, text), titles in where.items()
             if text not in programs.values()]
    told += [f"{room}: could not be measured: {text}" for room, text in report.get("broken", {}).items()]
    if told:
        yield "\nwhat did not run:"
        yield from (f"  {line}" for line in told)


def cost(report):
    """Work of the server and both ends' system calls, for a request."""
    evidence = report["evidence"]
    work, requests = evidence["server"], evidence["requests"]
    per = {name: work.get(name, 0) / requests for name in ("work_requests", "doorbells", "sleeps", "wakes_sent")}
    return {**per, "calls": report.get("calls", {})}


def carried(report):
    """What carried NetACC's 100 clients, and what that cost."""
    evidence, costs = report["evidence"], cost(report)
    server, client = evidence["server"], evidence["client"]
    requests = evidence["requests"]
    yield f"\nredis over NetACC, 100 clients, {requests:,} SETs:"
    yield (f"  connections: server accepted {server.get('accepted_rdma', 0)} over RDMA, {server.get('accepted_tcp', 0)} "
           f"over TCP; client made {client.get('connected_rdma', 0)} over RDMA, {client.get('connected_tcp', 0)} over TCP")
    pairs = evidence["queue_pairs"]
    yield f"  queue pairs: {pairs.get('a', 0)} in guest a, {pairs.get('b', 0)} in guest b (servers that idle included)"
    yield (f"  a reply of the server: {costs['work_requests']:.3f} work requests, {costs['doorbells']:.3f} doorbells, "
           f"{costs['sleeps']:.3f} sleeps, {costs['wakes_sent']:.3f} bells")
    for guest, counts in evidence["hardware"].items():
        said = ", ".join(f"{name} {value:,}" for name, value in sorted(counts.items())) or "the device has no counters"
        yield f"  device of guest {guest}: {said}"
    segments = evidence["segments"]
    yield (f"  TCP segments with data: {segments['segments']} on the application's port and its side port, "
           f"{segments['application_port']} of them on the application's")
    for guest, counts in evidence["protocols"].items():
        yield f"  kernel of guest {guest} (control wire included): " + ", ".join(f"{k} {v:,}" for k, v in counts.items())
    for carrier, calls in costs["calls"].items():
        if isinstance(calls, str):
            yield f"  system calls, {TITLES[carrier]}: {calls}"
            continue
        for end in ("server", "client"):
            most = sorted((n, name) for name, n in calls[end].items() if name not in SORTS)[:-7:-1]
            device = f", the soft device's own {calls[end]['device']:.4f}" if carrier == "netacc" else ""
            files = f", of files {calls[end]['files']:.4f}"
            yield (f"  system calls per SET, {TITLES[carrier]}, {end}: {calls[end]['total']:.4f}{device}{files}: "
                   + ", ".join(f"{name} {n:.3f}" for n, name in most if n >= 0.001))


def crowd(report):
    """1,000 connections."""
    found = report["crowd"]
    yield (f"\n{found['connections']:,} connections, a SET under way on each: client / server hold\n{'':28}requests/s   p50 ms   p99 ms"
           f"  connect ms{'queue pairs':>16}{'regions':>12}{'registered KiB':>18}{'rings KiB':>18}")
    for way in found["ways"]:
        runs = [r[way][""] for r in found["rounds"] if way in r]
        if not runs:
            yield f"  {way:26}does not run: {'; '.join(dict.fromkeys(found['failed'].get(way, ['?'])))}"
            continue
        rate, p50, p99, each = (median(run[name] for run in runs) for name in ("rate", "p50_ms", "p99_ms", "connect_ms"))
        held = runs[-1]["held"]

        def both(name, width, scale=1, held=held):
            texts = (f"{held[end][name] // scale:,}" if name in held[end] else "-" for end in ("client", "server"))
            return f"{' / '.join(texts):>{width}}"

        line = f"  {way:26}{rate:12,.0f}{p50:9.2f}{p99:9.2f}{each:12.2f}"
        if way != "kernel TCP":
            line += both("qps_now", 16) + both("mrs_now", 12) + both("mr_bytes_now", 18, 1024) + both("mr_bytes_used", 18, 1024)
            plain = held["client"].get("connected_tcp")
            line += f"  {plain} over TCP" if plain else ""
        yield line + "".join(f"  ({text})" for text in dict.fromkeys(found["failed"].get(way, [])))


def text(report):
    """All of it, as lines."""
    rows = report.get("redis", []) + report.get("speed", [])
    yield (f"\n{DEVICES[report['device']]}, MTU {report['mtu']}: two guests of one CPU each; medians of {report['rounds']} "
           "alternating run(s); redis-benchmark -r 10000 -d 512\n")
    yield from comparison(rows)
    yield from device_itself(rows)
    yield from packets(rows)
    yield from failures(report, rows)
    if "evidence" in report:
        yield from carried(report)
    if "crowd" in report:
        yield from crowd(report)


def verdicts(report):
    """(what, holds) for each figure that must hold."""
    rows = report.get("redis", []) + report.get("speed", [])
    for row in rows:
        least = {"rsocket": LEAST_TO_RSOCKET}
        if row["title"].startswith("100 clients"):
            least.update(LEAST_AT_100)
        for carrier, limit in least.items():
            if (found := ratio(row, carrier)) is not None:
                yield reaches(row, carrier, found, limit)
        if row["failed"].get("netacc"):
            yield f"{row['title']}: NetACC: {row['failed']['netacc'][0]}", False
    if "evidence" in report:
        yield from evidence_verdicts(report)
    if "crowd" in report:
        yield from crowd_verdicts(report["device"], report["crowd"])
    for room, why in report.get("broken", {}).items():
        yield f"{room}: {why}", False


def reaches(row, carrier, found, limit):
    """Whether NetACC is so much faster than a carrier, or nearly as fast as the device where that is not."""
    ceiling = ratio(row, carrier, BARE)
    if found >= limit or carrier != "rsocket" or ceiling is None or ceiling >= limit:
        return f"{row['title']}: {found:.2f}x {TITLES[carrier]} (at least {limit:g}x)", found >= limit
    part = ratio(row, BARE)
    return (f"{row['title']}: {found:.2f}x {TITLES[carrier]}, of which the device's bare verbs do {ceiling:.2f}x; {part:.2f}x of those "
            f"(at least {LEAST_OF_DEVICE:g}x)"), part >= LEAST_OF_DEVICE


def evidence_verdicts(report):
    """What carried the run with 100 clients, and its costs."""
    evidence, costs = report["evidence"], cost(report)
    for end, kind in (("server", "accepted"), ("client", "connected")):
        on, off = (evidence[end].get(f"{kind}_{mode}", 0) for mode in ("rdma", "tcp"))
        yield f"connections of the {end}: {on} over RDMA, {off} over TCP (all over RDMA)", on >= 100 and off == 0
    each, fixed = CONTROL_SEGMENTS
    most = each * evidence["server"].get("accepted_rdma", 0) + fixed
    seen = evidence["segments"]
    yield (f"TCP segments with data: {seen['segments']}, {seen['application_port']} on the application's port "
           f"(at most {most} to set up, 0)"), seen["segments"] <= most and not seen["application_port"]
    if any(evidence["hardware"].values()):
        sent = min(counts.get("sent_pkts", 0) for counts in evidence["hardware"].values())
        yield f"packets that the devices sent: {sent:,} (some at each end)", sent > 0
    yield f"work requests per reply: {costs['work_requests']:.3f} (at most {MOST_WORK})", costs["work_requests"] <= MOST_WORK
    yield (f"doorbells per reply: {costs['doorbells']:.3f} (no more than work requests)",
           0 < costs["doorbells"] <= costs["work_requests"])
    calls = costs["calls"].get("netacc", "not counted")
    for end in ("server", "client"):
        if isinstance(calls, str):
            yield f"system calls per request of the {end}: {calls}", False
        else:
            ours = calls[end]["total"] - calls[end]["device"] - calls[end]["files"]
            yield (f"system calls per request of the {end}: {calls[end]['total']:.4f}; without posting and arming, which are "
                   f"calls on soft devices only, and redis' own looks into files: {ours:.4f} (below {MOST_CALLS})"), ours < MOST_CALLS


def crowd_verdicts(device, found):
    """Every way of carrying 1,000 connections works, on RDMA, with as few queue pairs as it should."""
    most_pairs = {"NetACC, as it is": 2, "NetACC, CONN_PER_QP 32": 40, "NetACC, CONN_PER_QP 1": 1100}
    # A process can have no more: libsiw takes the memory key of the next one for "none".
    limited = {"siw": "NetACC, CONN_PER_QP 1"}.get(device)
    for way in found["ways"]:
        runs = [r[way][""] for r in found["rounds"] if way in r]
        if not runs:
            yield f"1,000 connections, {way}: {'; '.join(found['failed'].get(way, ['no run']))}", False
        elif way in most_pairs:
            held = runs[-1]["held"].get("client", {})
            on, off, pairs = (held.get(name, 0) for name in ("connected_rdma", "connected_tcp", "qps_now"))
            yield (f"1,000 connections, {way}: {on} over RDMA, {off} over TCP, {pairs} queue pairs "
                   f"({'as many as libsiw can' if way == limited else 'all'} over RDMA, at most {most_pairs[way]})"), (
                       on + off >= 1000 and (off == 0 or way == limited) and 0 < pairs <= most_pairs[way])
