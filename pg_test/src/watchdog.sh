# Ends everything that runs below the directory $1, and the directory. It does so when its standard input is closed:
# by Drop, or by the kernel when the test process is killed.
trap '' HUP INT TERM
dir=$1

while read -r _; do :; done

# All processes of a server stand in its data directory.
processes() {
    find /proc/[0-9]*/cwd -maxdepth 0 \( -lname "$dir" -o -lname "$dir/*" -o -lname "$dir (deleted)" \) 2>/dev/null | cut -d/ -f3
}

send() {
    for pid in $2; do
        kill "-$1" "$pid" 2>/dev/null
    done
}

# First the immediate shutdown, with which servers remove their shared memory themselves.
send CONT "$(processes)"
for file in "$dir"/*/data/postmaster.pid; do
    [ -e "$file" ] && send QUIT "$(head -n 1 "$file")"
done
tries=0
while [ -n "$(processes)" ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 100 ] && send KILL "$(processes)"
    sleep 0.05
done

# A killed server leaves a segment; its key and number are the seventh line.
for file in "$dir"/*/data/postmaster.pid; do
    [ -e "$file" ] || continue
    segment=$(sed -n 7p "$file" | awk '{print $2}')
    [ -n "$segment" ] && ipcrm -m "$segment" 2>/dev/null
done
# A disk that a test made small (see disk.rs).
while read -r _ mount _; do
    case $mount in "$dir"/*) umount "$mount" 2>/dev/null || sudo -n umount "$mount" ;; esac
done </proc/mounts
rm -rf "$dir"
