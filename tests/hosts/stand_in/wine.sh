# For scripts that run programs of Windows: a Windows of their own under $work, which says nothing and draws nothing,
# and goes when they end. To be sourced.
export WINEPREFIX=$work/wine WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=' DISPLAY=
wine_server=$(command -v wineserver || echo /usr/lib/wine/wineserver)
trap '[ ! -e "$WINEPREFIX" ] || "$wine_server" -k >/dev/null 2>&1; rm -rf "$work"' EXIT
