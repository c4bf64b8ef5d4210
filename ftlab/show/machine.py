"""What this machine can do, as a picture: what was found, how fast it multiplies, which models fit. It computes nothing."""

from ftlab.show import plots, style


@plots._styled
def machine_card(found, rates, fits, title="what this machine can do"):
    """A Picture of a machine.

    found: the dict of `ftlab.doctor.report`. rates: {name of a number format: GFLOP/s of a matrix product}.
    fits: {model: {method: (GiB needed, whether they are there)}}.
    """
    figure, (words, speed, table) = plots._figure(
        width=style.WIDTH * 1.25, height=3.5, columns=3, gridspec_kw={"width_ratios": (1.15, 0.9, 1.75)},
        alt=f"{title}: {found['device']}, {found['cores']} cores, {found['memory_gib']} GiB")
    _words(words, found, title)
    _speed(speed, rates)
    _fits(table, fits)
    return figure


def _words(axes, found, title):
    axes.axis("off")
    axes.set_title(plots._name(title))
    lines = [("profile", found["profile"]), ("device", found["device"]), ("cores", f"{found['cores']}"),
             ("memory", f"{found['memory_gib']:.1f} GiB" if found["memory_gib"] else "unknown"),
             ("disk free", "unknown" if found["disk_free_gib"] is None else f"{found['disk_free_gib']:.0f} GiB"),
             ("Python", found["python"]), ("torch", found["packages"].get("torch") or "missing")]
    y = 0.93
    for name, value in lines:
        axes.text(0, y, name, fontsize=8.5, color=style.GREY, transform=axes.transAxes)
        for part in plots._wrapped(value, 3, 22):
            axes.text(0.36, y, plots._name(part), fontsize=8.5, transform=axes.transAxes)
            y -= 0.085
        y -= 0.02
    worst = [p for p in found["problems"] if p["severity"] != "note"]
    said = "all is well" if not worst else f"{len(worst)} to mend: see ftlab doctor"
    axes.text(0, y, plots._name(said), fontsize=8.5, weight="bold", transform=axes.transAxes,
              color=style.VERMILLION if worst else style.GREEN)


def _speed(axes, rates):
    names, values = list(rates), list(rates.values())
    axes.bar(range(len(names)), values, color=[style.SERIES[i % 7] for i in range(len(names))], width=0.6)
    for i, value in enumerate(values):
        axes.annotate(style.number(value), (i, value), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8.5)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.14)
    axes.grid(visible=False, axis="x")
    plots._titles(axes, "matrix product, GFLOP/s", "", "")


def _fits(axes, fits):
    methods = list(dict.fromkeys(method for row in fits.values() for method in row))
    for y, row in enumerate(fits.values()):
        for x, method in enumerate(methods):
            need, there = row[method]
            axes.add_patch(plots.Rectangle((x + 0.04, y + 0.08), 0.92, 0.84, linewidth=0,
                                           facecolor=style.GREEN if there else style.GREY, alpha=0.30 if there else 0.13))
            axes.text(x + 0.5, y + 0.5, f"{'✓' if there else '✗'} {style.number(need)}", ha="center", va="center", fontsize=8)
    axes.set_xlim(0, len(methods))
    axes.set_ylim(len(fits), 0)
    axes.set_xticks([x + 0.5 for x in range(len(methods))], methods)
    axes.set_yticks([y + 0.5 for y in range(len(fits))], [plots._name(name) for name in fits])
    axes.tick_params(length=0, top=False)
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    plots._titles(axes, "GiB to fine-tune, and whether they fit (✓)", "", "")
