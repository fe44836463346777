"""The page of `xai report`, as a Jinja template: one file, readable on a phone, light and dark."""

STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#1c2330, #e6e9ef); --soft: light-dark(#5b6475, #9aa4b5);
  --ground: light-dark(#f5f6f8, #12151b); --card: light-dark(#ffffff, #1b2029); --line: light-dark(#dfe3ea,
  #303846);
  --link: light-dark(#1553b6, #86b4ff); --good: light-dark(#0b6b3a, #63d199); --bad: light-dark(#a3261d,
  #ff8f85);
  --warn: light-dark(#80560a, #e8bd5c); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main, header, footer { max-width: 74rem; margin: 0 auto; padding: 1rem; }
h1 { margin: 1rem 0 .2rem; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 0; font-size: 1.25rem; line-height: 1.3; } h3 { margin: 1.6rem 0 .4rem; font-size: 1rem; }
a { color: var(--link); } p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1rem;
  margin-bottom: 1.2rem; }
.state { display: inline-block; padding: 0 .6rem; border: 1px solid; border-radius: 1rem; font-size: .85rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-top: 1px solid
var(--line); }
th { color: var(--soft); font-weight: 600; border-top: 0; } .data { width: auto; font-size: .84rem; } .data td, .data th {
white-space: nowrap; }
.data td { font-variant-numeric: tabular-nums; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap:
1.4rem 1rem; }
figure { margin: 0; } .table { margin-bottom: 1.4rem; } figcaption { font-size: .88rem; margin-top: .3rem; }
figure img { width: 100%; max-height: 26rem; object-fit: contain; background: #fff; border: 1px solid var(--line);
  border-radius: .4rem; padding: .3rem; }
.error { border-left: .25rem solid var(--bad); padding: .1rem .8rem; overflow-wrap: anywhere; }
details { margin-top: .6rem; } summary { cursor: pointer; color: var(--soft); } code { font-size: .88em; }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media (max-width: 40rem) {
  section { padding: .8rem; margin: 0 -.5rem 1rem; }
  .claims tr { display: block; border-top: 1px solid var(--line); padding: .5rem 0; }
  .claims tr:first-child { display: none; } .claims td { display: block; border: 0; padding: .1rem 0; }
  .claims td[data-label]::before { content: attr(data-label) " "; color: var(--soft); font-weight: 600; }
  .claims td br { display: none; } .claims td .soft::before { content: ", "; } }
@media print {
  :root { color-scheme: light; } body { background: #fff; font-size: 10.5pt; }
  main, header, footer { max-width: none; padding: 0; } section { border: 0; padding: 0; break-before: page; }
  figure, tr, h3 { break-inside: avoid; } h3 { break-after: avoid; } a { color: inherit; text-decoration: none; }
  .figures { grid-template-columns: 1fr 1fr; } .wide { overflow: visible; }
  .data td, .data th { white-space: normal; font-size: 8pt; padding-right: .35rem; }
  details::details-content { content-visibility: visible; block-size: auto; } summary { list-style: none; } }
"""

TEMPLATE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,
initial-scale=1">
<title>{{ profile }}: papers against our results</title><style>{{ style|safe }}</style></head><body>
<header><h1>What each paper claims, what we measured</h1>
<p class="soft">Profile <strong>{{ profile }}</strong>, {{ entries|length }} notebook
{{- '' if entries|length == 1 else 's' }}, page of {{ made }}</p>
<div class="wide"><table><tr><th>Notebook</th><th>State</th><th>Claims that hold</th><th>Time</th></tr>
{% for entry in entries %}<tr><td><a href="#{{ entry.name }}">{{ entry.name }}</a></td>
<td class="{{ tones[entry.state.kind] }}">{{ entry.state.kind }}</td>
<td>{% if entry.record %}{% set claims = entry.record.results.claims %}
{{- claims|selectattr('holds')|list|length ~ ' of ' ~ claims|length if claims else 'none made' }}{% endif %}</td>
<td>{% if entry.record %}{{ entry.record.seconds|clock }}{% endif %}</td></tr>{% endfor
%}</table></div></header>
<main>{% for entry in entries %}{% set run = entry.record %}
<section id="{{ entry.name }}"><h2>{{ entry.title }}</h2>
{% if entry.paper %}<p class="soft">{{ entry.paper }}</p>{% endif %}
<p><span class="state {{ tones[entry.state.kind] }}">{{ entry.state.kind }}</span>
{% if entry.state.detail and not entry.error %}<span class="soft">{{ entry.state.detail }}</span>{% endif %}</p>
{% if entry.error %}<div class="error"><p><strong>The last run failed.</strong> {{ entry.error }}</p>
{% if entry.log_end %}<details><summary>end of its log</summary><pre>{{ entry.log_end }}</pre></details>{% endif %}
{% if entry.log %}<p><a href="{{ entry.log|path }}">whole log</a>{% endif %}
{%- if entry.failed_notebook %}, <a href="{{ entry.failed_notebook|path }}">its notebook</a>{% endif %}</p>
{% if run %}<p>What follows is the previous complete result.</p>{% endif %}</div>{% endif %}
{% if not run %}<p>There is no result to show:
<code>xai run {{ entry.name }} --profile {{ profile }}</code> makes one.</p>{% else %}
<p>{% if entry.html %}<a href="{{ entry.html|path }}">Read the executed notebook</a> &middot; {% endif %}
{% if entry.ipynb %}<a href="{{ entry.ipynb|path }}">notebook file</a> &middot; {% endif %}
{{ run.seconds|clock }} on {{ run.hardware.cpu }}, {{ run.hardware.threads }}
thread{{ '' if run.hardware.threads == 1 else 's' }}{% if run.hardware.gpu %}, {{ run.hardware.gpu }}{%
endif %}{% if run.units and run.units.kept %}; {{ run.units.kept }} of {{ run.units.kept + run.units.measured }}
measurements were made before, by shards or by a run that was cut short{% endif %}</p>
{% if run.results.claims %}<h3>Claims</h3><div class="wide"><table class="claims">
<tr><th>Paper says</th><th>We measured</th><th>Verdict</th></tr>
{% for claim in run.results.claims %}<tr><td data-label="Paper says:">{{ claim.paper }}</td>
<td data-label="We measured:">{{ claim.ours }}</td>
<td class="{{ claim_tones[claim.holds] }}">{{ verdicts[claim.holds] }}
{%- if claim.label %}<br><span class="soft">{{ claim.label }}</span>{% endif %}</td></tr>{% endfor
%}</table></div>{% endif %}
{% if run.results.figures %}<h3>Figures</h3><div class="figures">{% for figure in run.results.figures %}
<figure><a href="{{ (entry.name ~ '/' ~ figure.file)|path }}"><img loading="lazy" alt="{{ figure.caption }}"
src="{{ (entry.name ~ '/' ~ figure.file)|path }}"></a><figcaption>
{% if figure.paper %}<strong>{{ figure.paper }}.</strong> {% endif %}{{ figure.caption
}}</figcaption></figure>
{% endfor %}</div>{% endif %}
{% if run.results.tables %}<h3>Tables</h3>{% for table in entry.tables %}<figure class="table">
<figcaption>{% if table.paper %}<strong>{{ table.paper }}.</strong> {% endif %}{{ table.caption }}
<a href="{{ (entry.name ~ '/' ~ table.file)|path }}">{{ table.name }}.csv</a>
{%- if table.rows > table.head|length - 1 %}, first {{ table.head|length - 1 }} of {{ table.rows }} rows{%
endif %}</figcaption><div class="wide"><table class="data">
{% for row in table.head %}<tr>{% for cell in row %}
{%- if row is sameas table.head[0] %}<th>{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}{% endfor
%}</tr>
{% endfor %}</table></div></figure>{% endfor %}{% endif %}
{% if run.results.not_shown %}<h3>Not shown</h3><ul>{% for item in run.results.not_shown %}
<li><strong>{{ item.item }}</strong>: {{ item.reason }}</li>{% endfor %}</ul>{% endif %}
<details><summary>Parameters, versions, what the run declared</summary><div class="wide"><table>
{% for name, value in run.parameters.items() %}<tr><td><code>{{ name }}</code></td>
<td><code>{{ value|tojson }}</code></td></tr>{% endfor %}</table></div>
<p class="soft">{% for name, value in run.versions.items() %}{{ name }} {{ value }}{{ '' if loop.last else
', ' }}
{%- endfor %}. Finished {{ run.finished }}; seconds a cell: {{ run.cell_seconds|join(', ') }}.</p>
{% if run.results.record %}<pre>{{ run.results.record|pretty }}</pre>{% endif %}</details>{% endif %}
</section>{% endfor %}
{% if cards %}<section id="methods"><h2>The methods: a card each</h2>
<p class="soft">Measured by one command, in the form of saliency cards (Boggust et al. 2023).</p>
{% for title, sections in cards %}<details><summary>{{ title }}</summary>
{% for head, rows in sections %}<h3>{{ head }}</h3><div class="wide"><table>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
{% endfor %}</details>{% endfor %}</section>{% endif %}</main>
<footer class="soft"><p>The labels reproduced and replicated are those of the ACM: reproduced with the
authors' own
artefacts, replicated with everything made anew.</p></footer></body></html>
"""
