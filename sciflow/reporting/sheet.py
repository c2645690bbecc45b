"""The style sheet of the report: on a screen, on a phone, on paper."""

from __future__ import annotations

from sciflow.reporting.colours import BLUE, GREY, INK, MUTED, ORANGE, PAGE, PAPER, RED, RULE

COLUMNS = 24
"""Of a table up to which numbers are aligned."""

_SHEET = """
:root{color-scheme:light;--ink:INK;--muted:MUTED;--blue:BLUE;--orange:ORANGE;--red:RED;--grey:GREY;
--rule:RULE;--paper:PAPER;--page:PAGE}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;color:var(--ink);
background:var(--page);margin:0;counter-reset:figure}
main{max-width:1080px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:29px;line-height:1.25;margin:0 0 6px}h2{font-size:19px;line-height:1.3;margin:0 0 12px}
h3{font-size:15px;margin:20px 0 6px}p{margin:8px 0;max-width:82ch;overflow-wrap:anywhere}a{color:var(--blue)}
.sub{color:var(--muted);margin:0;max-width:none}.sub:last-of-type{margin-bottom:22px}
section,nav{background:var(--paper);border:1px solid var(--rule);border-radius:10px;padding:20px 24px;
margin:0 0 20px}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:12px;margin:0 0 20px}
.figure{background:var(--paper);border:1px solid var(--rule);border-radius:10px;padding:12px 16px}
.figure b{display:block;font-size:24px;line-height:1.3;font-weight:650;overflow-wrap:anywhere}
.figure.long b{font-size:15px;line-height:1.35;margin:4px 0}
.figure span{color:var(--muted);font-size:13px;line-height:1.35;display:block}
nav h2{font-size:15px;margin:0 0 6px}nav ol{margin:0;padding-left:1.6em;columns:2 320px;column-gap:32px}
nav li{padding:1px 0;break-inside:avoid}nav a{text-decoration:none}nav a:hover{text-decoration:underline}
.wide{overflow-x:auto;margin:8px 0 14px}
table{border-collapse:collapse;min-width:min(100%,480px);font-variant-numeric:tabular-nums;font-size:14px}
thead{text-align:left}th{text-align:inherit}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--muted);font-weight:600;font-size:13px;line-height:1.35;vertical-align:bottom}
thead th{border-bottom:1.5px solid var(--grey)}
td:last-child,th:last-child{padding-right:2px}.dense table,table.dense{font-size:12.5px;line-height:1.35}
.dense th{font-size:12px}table.dense th,table.dense td{padding-right:9px}
figure{margin:14px 0 18px;overflow-x:auto}img{max-width:100%;height:auto;display:block}
figcaption{color:var(--muted);font-size:13px;margin:4px 0 0}
figcaption::before{counter-increment:figure;content:"Figure " counter(figure) ". ";font-weight:600}
.lane{position:relative;height:13px;min-width:220px;background:var(--page);border-radius:3px}
.lane i{position:absolute;top:0;bottom:0;min-width:3px;border-radius:3px;background:var(--blue)}
.lane .cached{background:repeating-linear-gradient(135deg,var(--grey) 0 2px,var(--paper) 2px 5px);
border:1px solid var(--grey)}
.lane .failed,.lane .cancelled{background:var(--red)}
.when{display:flex;justify-content:space-between;font-weight:400}
.state-failed{color:var(--red);font-weight:650}
pre{background:var(--page);border-radius:8px;padding:12px;overflow:auto;font-size:12.5px;margin:8px 0}
code{font-size:12.5px;overflow-wrap:anywhere}details{margin:4px 0}
details>summary{cursor:pointer;color:var(--blue)}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
@media(max-width:640px){main{padding:20px 12px 40px}section,nav{padding:14px 14px}h1{font-size:23px}
.figures{grid-template-columns:repeat(auto-fill,minmax(135px,1fr));gap:8px}.figure b{font-size:20px}
figure.broad img{max-width:none;width:720px}figcaption{position:sticky;left:0}}
@media print{@page{margin:14mm}body{font-size:9.5pt;background:#fff}main{max-width:none;padding:0}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
section{border:0;border-top:1px solid var(--grey);border-radius:0;padding:10px 0;margin:0}
nav,.orbit{display:none}section,.figure,figure,tr{break-inside:avoid}h2,h3,thead{break-after:avoid}
.wide,figure,pre{overflow:visible}pre{white-space:pre-wrap;overflow-wrap:anywhere}table{font-size:8pt}
th,td{padding:2px 8px 2px 0;white-space:normal!important}.figures{grid-template-columns:repeat(5,1fr)}
.figure{padding:8px 10px}.figure b{font-size:15pt}a{color:inherit;text-decoration:none}
section>pre{columns:2;font-size:7pt}details>summary{color:inherit;list-style:none}}
"""


def style_sheet() -> str:
    """The sheet with the palette's colours in it, and the columns of numbers of `sciflow.reporting.table`."""
    names = {
        "INK": INK, "MUTED": MUTED, "BLUE": BLUE, "ORANGE": ORANGE, "RED": RED, "GREY": GREY, "RULE": RULE,
        "PAPER": PAPER, "PAGE": PAGE,
    }  # fmt: skip
    sheet = _SHEET
    for name, value in names.items():
        sheet = sheet.replace(f":{name};", f":{value};").replace(f":{name}}}", f":{value}}}")
    places = range(1, COLUMNS + 1)
    right = ",".join(f".n{i} tr>:nth-child({i})" for i in places)
    whole = ",".join(f".n{i} td:nth-child({i})" for i in places)
    return f"{right}{{text-align:right}}{whole}{{white-space:nowrap}}{sheet}"
