"""
The drivers that hold a container's limits: control groups, cgroups(7).

    v1.py v2.py none.py  the drivers: which directories, how they are joined, what they counted
    pids.py memory.py cpu.py cpuset.py blkio.py devices.py
                         a controller each: limits to `Setting`s, for v1 and v2 side by side
    settings.py          what a limit is made of: a file, what is written to it, what it then shows
    mounts.py            where the hierarchies are mounted, and where in them the supervisor is
    directories.py       making the container's directories; removing them with everything in them
    files.py             reading and writing single files

A driver decides purely (`contribute`: limits become settings, which become the plan's checks), and
acts later (`host`: directories, settings, and the way back).
"""
