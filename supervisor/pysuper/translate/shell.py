"""
The fixed parts of a script that makes a container: functions, and what is between the steps of the plan.

The half on the host makes what is outside of the container, and waits. The half in the container mounts the new root,
gives its privileges up, and waits, too: in a shell that has built in all that it needs from then on. So the host's half
can take the old root away from under it, read back what was promised, and let it go on.
"""

from __future__ import annotations

__all__ = [
    "ACCOUNT",
    "CGROUPS",
    "CHECKS",
    "CLEAN_UP",
    "CONTAINER",
    "COPIED",
    "EXECUTE",
    "GO",
    "GROUPS",
    "HOST",
    "INIT",
    "LAYER",
    "MOUNTS",
    "PIPES",
    "PIVOT",
    "READY",
    "WAIT",
    "WRITE",
    "own",
]

HOST = """\
set -eu
umask 022

fail() {
    echo "$0: $*" >&2
    exit 125
}
"""

#: In both halves.
WRITE = """
# Write $2 to the file $1, which exists: none is ever created.
write() {
    [ -e "$1" ] || fail "there is no $1"
    printf %s "$2" > "$1"
}
"""

CGROUPS = """
# Make a cgroup. One of cpuset gets the cores and memory nodes of the one above, without which nothing can join it.
make_cgroup() {
    mkdir "$1"
    echo "$1" >> "$box/cgroups"
    for file in cpuset.mems cpuset.cpus; do
        if [ -e "$1/tasks" ] && [ -e "$1/$file" ]; then cat "$1/../$file" > "$1/$file"; fi
    done
}

# Kill what is left in a cgroup, and remove it; a process leaves it a little later than it dies.
remove_cgroup() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        while read -r left; do kill -KILL "$left" 2> /dev/null || :; done < "$1/cgroup.procs"
        if rmdir "$1" 2> /dev/null; then return 0; fi
        sleep 0.1
    done
    echo "$0: $1 is left behind" >&2
}
"""

CHECKS = """
# Fail unless $2, which is what the kernel says of the promise $1, is $3.
check() {
    [ "$2" = "$3" ] || fail "not in force, so the command was not run: $1: the kernel says '$2', not '$3'"
}

own_namespace() {
    [ "$(readlink "/proc/$pid/ns/$1")" != "$(readlink "/proc/self/ns/$1")" ] || fail "the $1 namespace is the host's"
}

# A resource limit, soft and hard.
limit_of() {
    prlimit --pid "$pid" "--$1" --noheadings --raw --output SOFT,HARD
}

# The content of a file, with single spaces.
content_of() {
    tr -s '[:space:]' ' ' < "$1" | sed 's/^ //; s/ $//'
}

# A field of proc_pid_status(5).
status_of() {
    sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status"
}

# Where it is in the hierarchy with the controllers $1, cgroups(7).
cgroup_in() {
    awk -F: -v wanted="$1" '$2 == wanted { sub("^[^:]*:[^:]*:", ""); print }' "/proc/$pid/cgroup"
}

# How many mounts are at /.
roots() {
    awk '$5 == "/" { count++ } END { print count }' "/proc/$pid/mountinfo"
}

# Those of the flags $2 that the topmost mount at $1 has. proc_pid_mountinfo(5) writes white space in octal.
flags_at() {
    at=$1 awk -v wanted="$2" '
        $5 == ENVIRON["at"] { found = "," $6 "," }
        END {
            count = split(wanted, flags, ",")
            for (n = 1; n <= count; n++) if (index(found, "," flags[n] ",")) held = held "," flags[n]
            print substr(held, 2)
        }' "/proc/$pid/mountinfo"
}
"""

CLEAN_UP = """
# Whatever happens, nothing is left of what is made here.
clean_up() {
    status=$?
    set +e
    trap '' HUP INT PIPE TERM
    exec 4<&- 7>&- # a container that still waits gives up
    [ -z "${pid-}" ] || kill -KILL "$pid" 2> /dev/null
    [ -z "${holder-}" ] || kill -KILL "$holder" 2> /dev/null
    wait 2> /dev/null
    if [ -e "$box/cgroups" ]; then
        while IFS= read -r cgroup; do remove_cgroup "$cgroup"; done < "$box/cgroups"
    fi
    rm -r "$box"
    exit "$status"
}

box=$(readlink -f "$(mktemp -d)") # the new root is mounted in it, in a mount namespace of the container's own
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE
trap 'exit 143' TERM
"""

PIPES = """
# 3 is the input of the command. The container writes to 5 when it is ready, and this half reads that from 4. The
# container goes on when it reads something from 6, and this half writes that to 7.
mkdir "$box/root" "$box/layer"
mkfifo "$box/ready" "$box/go"
exec 3<&0 8<> "$box/ready" 9<> "$box/go"
exec 4< "$box/ready" 5> "$box/ready" 6< "$box/go" 7> "$box/go" 8>&- 9>&-
"""

#: From here on, in the container.
CONTAINER = """\
set -eu
box=$1 holder=$2
shift 2
root=$box/root
read -r pid _ < /proc/self/stat # in the words of the host, whose /proc this is

fail() {
    echo "$0: $*" >&2
    exit 125
}
"""


def own(uid: int, gid: int) -> str:
    """How files are made that belong to the container's root, whom this process has to call so."""
    if uid == 0:
        return """
uid=0 gid=0
own() { "$@"; }
"""
    return f"""
# The container's root, as it is called out here, owns what is made, wherever it may make something.
uid={uid} gid={gid}
own() {{ setpriv --reuid="$uid" --regid="$gid" --clear-groups "$@" 2> /dev/null || "$@"; }}

map=''
case $(mount --version) in *idmapping*) map="-o X-mount.idmap=/proc/$holder/ns/user" ;; esac
"""


MOUNTS = r"""
# A place to mount something at: a directory, or a file if $2 is one. What is missing is made. A symbolic link on the
# way is an error, since it can lead out of the new root.
place() {
    cd "$root"
    [ "$1" != / ] || return 0
    found=$(readlink -mn "$root$1"; echo .)
    [ "${found%.}" = "$root${1%/}" ] || fail "$1 is or leads through a symbolic link in the container"
    if [ -e ".$1" ]; then
        :
    elif [ -z "${2-}" ] || [ -d "$2" ]; then
        own mkdir -p ".$1"
    else
        own mkdir -p "./${1%/*}"
        own touch ".$1"
    fi
}

# Mount a new file system of the type $1 at $2, with the options $3.
new() {
    place "$2"
    mount -t "$1" -o "$3" "$1" "$root${2%/}"
}

# Show $2 of the host at $3: with the mounts below it, if $1 is rbind, or without, if it is bind. The flags are $4, and
# $5 are more options of mount(8).
show() {
    place "$3" "$2"
    # shellcheck disable=SC2086 # two words, or none
    mount "--$1" ${5-} "$2" "$root${3%/}"
    if [ -n "${4-}" ]; then flags_below "$4" "$root${3%/}"; fi
}

# Give every mount at and below $2 the flags $1; it keeps those that it has.
flags_below() {
    cut -d ' ' -f 5 /proc/self/mountinfo | sed 's/\\/\\0/g' | while IFS= read -r escaped; do
        target=$(printf '%b.' "$escaped")
        target=${target%.}
        case $target in "$2" | "$2"/*) mount -o "remount,bind,$1" "$target" ;; esac
    done
}

# Make the directory $1 with the mode $2, the symbolic link $2 that says $1, the device $1 of the kind $2 with the
# numbers $3 and $4.
directory() {
    place "$1"
    own chmod "$2" ".$1"
}

link() {
    place "${2%/*}/"
    own ln -s -- "$1" ".$2"
}

device() {
    place "${1%/*}/"
    mknod -m 666 ".$1" "$2" "$3" "$4"
    chown "$uid:$gid" ".$1"
}

# Hide a directory behind an empty file system, a file behind the null device.
hide() {
    if [ -d "$root$1" ]; then
        mount -t tmpfs -o ro,nosuid,nodev,size=4k,mode=0 tmpfs "$root$1"
    elif [ -e "$root$1" ]; then
        mount --bind "$root/dev/null" "$root$1"
    fi
}

# Mount something onto itself, read-only.
read_only() {
    if [ -e "$root$1" ]; then
        mount --rbind "$root$1" "$root$1"
        flags_below ro "$root$1"
    fi
}
"""

LAYER = """
# Show the directory $1 of the host at $2, copy-on-write: what is written goes to a file system in memory. $3 are more
# options of the overlay, $4 of the mount that is its lower layer.
layer() {
    place "$2"
    mount -t tmpfs -o mode=0755 tmpfs "$box/layer"
    cd "$box/layer"
    mkdir lower upper work
    # shellcheck disable=SC2086 # two words, or none
    mount --bind ${4-} "$1" lower
    [ -n "${3-}" ] || chown "$(($(stat -c %u "$1") + uid)):$(($(stat -c %g "$1") + gid))" upper
    chmod "$(stat -c %a "$1")" upper
    mount -t overlay -o "lowerdir=lower,upperdir=upper,workdir=work${3-}" overlay "$root${2%/}"
    cd /
    umount -l "$box/layer"
}
"""

ACCOUNT = """
# Look $2 up in the container's own passwd(5), where it is a name or a number, as $1 says.
account() {
    login='' user=$2 group=0 groups=--clear-groups home=/ shell=/bin/sh
    while IFS=: read -r name _ number primary _ directory program; do
        case $1 in name) key=$name ;; *) key=$number ;; esac
        if [ "$key" = "$2" ]; then
            login=$name user=$number group=$primary home=${directory:-/} shell=${program:-/bin/sh}
            return
        fi
    done < "$(file_of_the_container /etc/passwd)"
    [ "$1" = number ] || fail "/etc/passwd of the container has no user $2"
}

# A file of the container's, or an empty one: what a symbolic link leads to is the host's.
file_of_the_container() {
    if [ -f "$root$1" ] && [ "$(readlink -m "$root$1")" = "$root$1" ]; then echo "$root$1"; else echo /dev/null; fi
}
"""

GROUPS = """
# The same in group(5), if there is a $2; and all groups that list the user.
groups() {
    [ -z "${2-}" ] || group=''
    listed=''
    while IFS=: read -r name _ number members; do
        case $1 in name) key=$name ;; *) key=$number ;; esac
        [ -z "${2-}" ] || [ "$key" != "$2" ] || group=$number
        case $login,$members, in
            ,* | root,*) ;;
            *,"$login",*) listed=$listed,$number ;;
        esac
    done < "$(file_of_the_container /etc/group)"
    [ -n "$group" ] || [ "$1" = name ] || group=$2
    [ -n "$group" ] || fail "/etc/group of the container has no group $2"
    [ -z "$listed" ] || groups=--groups=${listed#,}
}
"""

#: Of the last program of the host, a shell. Its arguments are its pid on the host, the working directory, the command.
WAIT = """\
echo "$1" >&5
read -r _ <&6 || exit 125
exec 5>&- 6<&- 9<&-
cd "$2" || exit 125
shift 2
unset PWD OLDPWD
"""

#: What it does then: become the command, or wait for it, and reap what else ends meanwhile.
EXECUTE = """\
exec "$@"
"""
INIT = """\
(exec "$@")
exit
"""

#: On the host again.
READY = """
container=$!
exec 3<&- 5>&- 6<&-
read -r pid <&4 || fail "the container has failed before it was ready"
if [ -n "${holder-}" ]; then
    kill -KILL "$holder"
    wait "$holder" 2> /dev/null || :
    holder=''
fi
"""

#: What has come with a copy of a mount namespace is locked there, and cannot be pivoted to; what is mounted in it can.
COPIED = """\
in_its_mounts mount --rbind "$box/root" "$box/root"
"""
PIVOT = """\
in_its_mounts pivot_root "$box/root" "$box/root"
in_its_mounts umount -l /
"""

GO = """
echo go >&7
status=0
wait "$container" || status=$?
pid=''
exit "$status"
"""
